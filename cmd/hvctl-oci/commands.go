package main

// command is one verb.
type command struct {
	name, args, help string
	min, max         int // positional arguments; max -1: any number
	// setup makes the flags and what to do once they are set.
	setup func(*app) (func(args []string) (int, error), flagSet)
	// unsupported asks whether this host cannot do it, and why; --help fails with
	// that. nil: it can.
	unsupported func(*app) error
}

// commands is filled in by init, as they refer to it.
var commands []command

func init() {
	commands = []command{
		{name: "create", args: "ID", help: "make a container from a bundle, waiting to be started", min: 1, max: 1, setup: cmdCreate},
		{name: "start", args: "ID", help: "start the program of a created container", min: 1, max: 1, setup: onOne(start)},
		{name: "run", args: "ID", help: "create and start a container and wait for it", min: 1, max: 1, setup: cmdRun},
		{name: "state", args: "ID", help: "print a container's state as JSON", min: 1, max: 1, setup: cmdState},
		{name: "kill", args: "ID [SIGNAL]", help: "send a signal (TERM) to a container", min: 1, max: 2, setup: cmdKill},
		{name: "delete", args: "ID", help: "remove a container that has ended", min: 1, max: 1, setup: cmdDelete},
		{name: "exec", args: "ID [PROGRAM ARGUMENTS]", help: "run a further program in a container", min: 1, max: -1, setup: cmdExec},
		{name: "ps", args: "ID [PS OPTIONS]", help: "list the processes of a container", min: 1, max: -1, setup: cmdPS},
		{name: "pause", args: "ID", help: "stop every process of a container for a while", min: 1, max: 1, setup: onOne(pause)},
		{name: "resume", args: "ID", help: "let a paused container go on", min: 1, max: 1, setup: onOne(resume)},
		{name: "update", args: "ID", help: "change the limits of a container", min: 1, max: 1, setup: cmdUpdate},
		{name: "events", args: "ID", help: "print what a container uses, and when it runs out of memory", min: 1, max: 1, setup: cmdEvents},
		{name: "list", help: "list the containers", max: 0, setup: cmdList},
		{name: "features", help: "print what this runtime can do as JSON", max: 0, setup: cmdFeatures},
		{name: "spec", help: "write a config.json to begin with", max: 0, setup: cmdSpec},
		{name: "checkpoint", args: "ID", help: "save a running container in files", min: 1, max: 1, setup: cmdCheckpoint, unsupported: noCRIU},
		{name: "restore", args: "ID", help: "make a container from the files of a checkpoint and wait for it", min: 1, max: 1, setup: cmdRestore, unsupported: noCRIU},
	}
}
