// Package stage is what runs between the runtime and the user's program: a
// re-exec of the runtime's binary in the new namespaces. It reads a plan
// (package container/plan), builds the root file system, applies every limit
// and identity, says that it is ready, waits for the start and replaces itself
// by the program.
//
// It runs on the process's first thread, to which its goroutine is locked:
// namespaces, credentials, seccomp and labels belong to a thread, and only
// that thread survives the execve.
//
// It does not log and has no configuration. An error goes to the runtime over
// the descriptor that the plan came on; the runtime prints it. Main is to be
// called first thing in the program's main function.
package stage
