package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/handoff"
	"golang.org/x/sys/unix"
)

// lendGrace is how long the old owner may take to hear of us.
const lendGrace = 30 * time.Second

// quietGrace is how long the old owner may take to write the last output.
const quietGrace = 30 * time.Second

// succeed is Run for a process that takes a running instance over.
func succeed(ctx context.Context, dir string, h instance.Handover, newRuntime func(*workload.Config) (workload.Runtime, error)) error {
	unix.CloseOnExec(h.Link)
	link := os.NewFile(uintptr(h.Link), "link")
	defer link.Close()
	inst, err := instance.OpenDir(dir)
	if err != nil {
		return err
	}
	if inst.Apart() && os.Geteuid() == 0 {
		// The old owner has to be able to kill us until the guest is ours. It may kill
		// what has its own real user ID; that alone gives us no rights and takes none.
		if err := syscall.Setreuid(instance.UserOf(inst.ID()), 0); err != nil {
			return os.NewSyscallError("setreuid", err)
		}
	}
	lent, err := handoff.Borrow(link, 2, lendGrace)
	if err != nil {
		return fmt.Errorf("upgrade: the old owner: %w", err)
	}
	lock, listener := lent[0], lent[1]
	defer listener.Close()
	st, err := inst.State()
	if err != nil {
		return err
	}
	o := newOwner(inst, st)
	o.out = newHub(nil, o.cfg.OpenStdin, o.log)
	o.group = o.openGroup()
	rt, err := newRuntime(o.cfg)
	if err != nil {
		return err
	}
	in, ok := rt.(workload.Inheritor)
	if !ok {
		return fmt.Errorf("%s: upgrade: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	proc, committed, err := in.TakeOver(ctx, link, func() error { return o.possess(link, lock) }, o.out.stdio(o.cfg.Spec.Process.Terminal))
	if err != nil && !committed {
		return err // the old owner has it, and says so
	}
	if err != nil {
		if inst.LockFile() == nil {
			err = errors.Join(err, o.possess(link, lock))
		}
		o.finish(workload.Exit{Code: exitCode(err), Err: err.Error(), At: time.Now()})
		_ = handoff.Tell(link, err.Error())
		return err
	}
	o.begin(ctx, rt, proc, st.Started)
	l, err := net.FileListener(listener)
	if err == nil {
		o.serveOn(l.(*net.UnixListener))
	} else { // it runs, and a new socket is better than none
		o.log.Error("the old owner's control socket", "err", err)
		if _, err := o.serve(); err != nil {
			o.log.Error("control socket", "err", err)
		}
	}
	o.event(control.EventUpgrade, map[string]string{"by": fmt.Sprint(os.Getpid())})
	_ = handoff.Tell(link, "") // it only waits to tell who asked
	o.last(ctx)
	return nil
}

// possess waits until the old owner writes nothing more, and takes lock and log.
func (o *owner) possess(link, lock *os.File) error {
	if _, err := handoff.Hear(link, quietGrace); err != nil && !errors.Is(err, io.EOF) { // EOF: it is gone
		o.log.Warn("the old owner may still write", "err", err)
	}
	if err := o.inst.AdoptLock(lock); err != nil {
		return err
	}
	logw, err := o.inst.OpenLog()
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	o.out.log = logw
	return nil
}
