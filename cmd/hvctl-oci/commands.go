package main

// command is one verb.
type command struct {
	name, args, help string
	min, max         int // positional arguments; max -1: any number
	// setup makes the flags and what to do once they are set.
	setup func(*app) (func(args []string) (int, error), flagSet)
	// unsupported says that this host cannot do it, and why; --help fails with it.
	unsupported string
}

// commands is filled in by init, as they refer to it.
var commands []command

func init() {
	commands = []command{
		{name: "create", args: "ID", help: "make a container from a bundle, waiting to be started", min: 1, max: 1, setup: cmdCreate},
		{name: "start", args: "ID", help: "start the program of a created container", min: 1, max: 1, setup: cmdStart},
		{name: "run", args: "ID", help: "create and start a container and wait for it", min: 1, max: 1, setup: cmdRun},
		{name: "state", args: "ID", help: "print a container's state as JSON", min: 1, max: 1, setup: cmdState},
		{name: "kill", args: "ID [SIGNAL]", help: "send a signal (TERM) to a container", min: 1, max: 2, setup: cmdKill},
		{name: "delete", args: "ID", help: "remove a container that has ended", min: 1, max: 1, setup: cmdDelete},
	}
}
