package stage

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/seccomp"
	"golang.org/x/sys/unix"
)

// seccomp loads the filter, after which only execve follows: and, where the
// profile notifies somebody, the message that takes the listener there, which
// the filter has to let pass.
func (s *stage) seccomp() error {
	p := s.plan.Process
	if len(p.Seccomp) == 0 {
		return nil
	}
	prog := seccomp.Program{Filter: p.Seccomp, Flags: p.SeccompFlags}
	fd, err := prog.Load()
	if err != nil || fd < 0 {
		return err
	}
	err = unix.Sendmsg(int(s.plan.SeccompFD), p.SeccompState, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("listenerPath: %w", err)
	}
	unix.Close(fd)
	return nil
}
