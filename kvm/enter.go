package kvm

import (
	_ "unsafe" // for linkname
)

// The scheduler's brackets around a system call. They are in Go's list of internal
// functions that other packages may link to (golang.org/issue/67401).
//
//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// enterGuest calls KVM_RUN until there is an exit that c does not serve. It returns
// the call's errno. It is in enter_amd64.s.
//
//go:noescape
func enterGuest(fd uintptr, run *runPage, c *causes) (errno uintptr)

// enter is unix.Syscall of KVM_RUN, but for what c serves: all of it is one
// system call to the scheduler. Nothing in it may grow the stack.
//
//go:nosplit
//go:norace
func enter(fd uintptr, run *runPage, c *causes) uintptr {
	entersyscall()
	errno := enterGuest(fd, run, c)
	exitsyscall()
	return errno
}
