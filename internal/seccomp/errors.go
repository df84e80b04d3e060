package seccomp

import (
	"errors"
	"fmt"
)

var (
	// ErrProfile means a profile that is wrong; the message has the field.
	ErrProfile = errors.New("bad seccomp profile")
	// ErrUnsupported means that this kernel cannot do what a profile asks for.
	ErrUnsupported = errors.New("seccomp is not supported by this kernel")
	// ErrPrivileges means neither no_new_privs nor CAP_SYS_ADMIN.
	ErrPrivileges = errors.New("seccomp needs process.noNewPrivileges, or CAP_SYS_ADMIN")
)

func bad(field, format string, a ...any) error {
	return fmt.Errorf("%w: linux.seccomp.%s: %s", ErrProfile, field, fmt.Sprintf(format, a...))
}
