// Command hvctl runs OCI workloads as microVMs and as containers. Each verb
// has its file, cmd_<verb>.go. What verbs share:
//
//	app.go       the program, global flags, errors and exit codes
//	backends.go  the backends of this build, one row each
//	args.go      flags after positional arguments
//	options.go   the flags of run and create, and the Config made of them
//	parse.go     values: sizes, ports, ulimits, ...
//	session.go   a terminal or pipes connected with a process
//	output.go    tables, JSON, times for people
//
// Only this package prints or exits.
package main
