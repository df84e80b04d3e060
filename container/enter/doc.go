// Package enter is the way of a further process into a running container: a
// program of steps (package steps) that joins the namespaces and groups, takes
// on the identity and the limits of a plan.Process, and executes the program.
//
// What stage does for a container's first process, this does for all others,
// without a Go runtime: both follow the same order, which is security's.
// Privileged things first, then what takes privileges away, what would limit
// us last; and nothing of ours, neither descriptor nor binary, is in reach of
// the container at any time.
package enter
