// Package spawn starts a stage in its namespaces.
//
// Where the namespaces are new, or a plain thread may join them, the clone is
// package syscall's (Start). A user namespace cannot be joined by a process
// with threads, and every Go process has some: there, Join has a program of
// steps (package steps) join, clone once more, so that the child is in the PID
// namespace and ours, and execute the stage.
package spawn
