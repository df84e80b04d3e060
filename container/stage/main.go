package stage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// Verb is the argument that makes the program a stage.
const Verb = "init"

func init() {
	if Wanted() {
		runtime.LockOSThread()
	}
}

// Wanted says whether the process was started as a stage.
func Wanted() bool { return len(os.Args) == 2 && os.Args[1] == Verb }

// Main carries out the plan; it returns only when that failed, and the caller
// exits with the code.
func Main() int {
	debug.SetGCPercent(-1) // it lives for milliseconds, or waits
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	sync := rawFD(plan.SyncFD)
	if err := checkSync(); err != nil {
		return 125
	}
	p, err := plan.ReadPlan(sync)
	if err != nil {
		_ = plan.Send(sync, plan.Failed, err.Error())
		return 125
	}
	s := &stage{plan: p, report: sync, root: -1, null: -1}
	if err := s.run(); err != nil {
		_ = plan.Send(s.report, plan.Failed, err.Error()) // the runtime died: nobody to tell
		return 125
	}
	return 125 // not reached: the program runs
}

// checkSync refuses to work for somebody who typed the verb by hand.
func checkSync() error {
	t, err := unix.GetsockoptInt(plan.SyncFD, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || t != unix.AF_UNIX {
		return errors.New("started without a plan")
	}
	unix.CloseOnExec(plan.SyncFD)
	return nil
}

// stage is one run.
type stage struct {
	plan   *plan.Plan
	report rawFD // who is told of a failure
	root   int   // the root file system, once mounted
	null   int   // the host's /dev/null, O_PATH
	later  []func() error
}

func (s *stage) run() error {
	p := s.plan
	unix.Umask(0)
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM {
		return os.NewSyscallError("setsid", err)
	}
	if err := s.enterNamespaces(); err != nil {
		return err
	}
	if p.NewKeyring != "" {
		if _, err := unix.KeyctlJoinSessionKeyring(p.NewKeyring); err != nil && err != unix.ENOSYS && err != unix.EPERM && err != unix.EDQUOT {
			return os.NewSyscallError("session keyring", err)
		}
	}
	if err := s.container(); err != nil {
		return err
	}
	path, err := s.prepare()
	if err != nil {
		return err
	}
	if err := s.awaitStart(); err != nil {
		return err
	}
	if err := s.hooks(p.AtStart, p.StartState); err != nil {
		return fmt.Errorf("hooks.startContainer: %w", err)
	}
	if p.Process == nil {
		return errors.New("process: not set in the configuration, there is nothing to start")
	}
	return s.become(path)
}

// rawFD reads and writes a descriptor without the network poller.
type rawFD int

func (f rawFD) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(f), b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (f rawFD) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.SendmsgN(int(f), b[done:], nil, nil, unix.MSG_NOSIGNAL)
		if err != nil && err != unix.EINTR {
			return done, os.NewSyscallError("write", err)
		}
		done += max(n, 0)
	}
	return done, nil
}
