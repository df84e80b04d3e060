// Package steps runs a list of system calls in a process that has no Go
// runtime.
//
// Two things need that. A user namespace can only be joined by a process with
// one thread, which no Go process has. And what executes in a container must
// not be our own binary unless that is protected, nor take the milliseconds
// that a second Go runtime takes to start.
//
// A Program is written as data: each step is a system call with constant
// arguments, where its result is stored, and which step follows when it
// succeeds or fails. The result can be stored into the arguments of a later
// step (descriptors), or be compared. Start makes an executable of it: 184
// bytes of machine code that walk through the table (machine.go), the table
// and what its arguments point to, in a sealed memfd. The container's
// processes may see that file as /proc/PID/exe; there is nothing in it that
// is not about them.
//
// amd64 only, like all of hvctl.
package steps
