package stage

import (
	"fmt"
	"os"
	"runtime"

	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// awaitStart says that all is set up and waits for whoever starts the
// container. From then on that one is told of failures.
func (s *stage) awaitStart() error {
	if err := plan.Send(s.report, plan.Ready, ""); err != nil {
		return err
	}
	if s.plan.StartFD == plan.None { // the runtime stays and starts us itself
		k, _, err := plan.Receive(s.report)
		if err != nil || k != plan.Go {
			return fmt.Errorf("waiting for the start: %w", err)
		}
		return nil
	}
	unix.Close(int(s.report))
	runtime.GC() // this may last: hold only what is needed
	for {
		fd, _, err := unix.Accept4(int(s.plan.StartFD), unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return os.NewSyscallError("accept", err)
		}
		k, _, err := plan.Receive(rawFD(fd))
		switch {
		case err == nil && k == plan.Go:
			s.report = rawFD(fd)
			unix.Close(int(s.plan.StartFD))
			return nil
		case err == nil && k == plan.Ping:
			_ = plan.Send(rawFD(fd), plan.Ready, "") // it may have gone
		}
		unix.Close(fd)
	}
}
