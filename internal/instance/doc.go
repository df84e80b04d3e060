// Package instance is the store of instances on one host: a directory each,
// under one root, and nothing else. There is no daemon and no database; the
// directory's lock says whether an owner process lives.
//
//	<root>/.lock            held while an instance is created or removed
//	<root>/.names/<name>    symbolic link to the ID
//	<root>/<id>/config.json what was asked; written once
//	<root>/<id>/state.json  what is known now; replaced atomically by the owner
//	<root>/<id>/lock        locked for the owner's whole life
//	<root>/<id>/control.sock where the owner listens
//	<root>/<id>/log.jsonl   the first process's output (log.jsonl.1, .2 ...)
//	<root>/<id>/owner.log   what the owner itself had to say
//
// The kernel drops a lock when its holder dies, however it dies. So a status
// of running with a free lock means Dead, and nothing can be left behind that
// claims to live. The command line takes the lock when it creates the
// directory and hands the open descriptor to the owner it starts: there is no
// moment in between at which the lock is free. Locks are those of open file
// descriptions (F_OFD_SETLK, fcntl(2)): like flock(2)'s they survive being
// handed on, and unlike them they can be looked at without being taken, so
// that `ps` never gets in the way of an owner.
//
// What an instance is asked to be is in package workload; how to talk to its
// owner is in package control. Both the command line and the owners import
// this package, so it imports little.
package instance
