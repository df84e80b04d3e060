package usernet

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// nobody is a user without files, on every Linux.
const nobody = 65534

// dropPrivileges makes the process, in which the frames of a guest are parsed,
// nobody's, if root started it, and one without capabilities. The ports are bound
// by then. In a user namespace without that user the process stays who it is: its
// starter, on the host.
func dropPrivileges() error {
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != 0 {
		return fmt.Errorf("no_new_privs: %w", errno)
	}
	if os.Geteuid() != 0 {
		return dropCapabilities()
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"groups", func() error { return syscall.Setgroups([]int{}) }},
		{"group", func() error { return syscall.Setresgid(nobody, nobody, nobody) }},
		{"user", func() error { return syscall.Setresuid(nobody, nobody, nobody) }},
	} {
		if err := step.do(); errors.Is(err, unix.EINVAL) || step.what == "groups" && errors.Is(err, unix.EPERM) {
			continue // not in this user namespace
		} else if err != nil {
			return fmt.Errorf("become nobody: %s: %w", step.what, err)
		}
	}
	return dropCapabilities()
}
