// Package spawn starts a stage in its namespaces.
//
// Where the namespaces are new, or a plain thread may join them, the clone is
// package syscall's (Start). A user namespace cannot be joined by a process
// with threads, and every Go process has some: there, Join forks by hand, and
// the child, which has one thread, joins everything and clones once more, a
// sibling of itself that is in the PID namespace and our child.
package spawn
