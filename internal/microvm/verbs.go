package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/commit"
)

// Shutdown asks the agent to stop everything, and presses the power button for
// a guest without one or whose agent does not listen.
func (v *VM) Shutdown(ctx context.Context) error {
	g, err := v.running()
	if err != nil {
		return err
	}
	if g.session != nil {
		err := g.session.Shutdown(ctx, 0, time.Second)
		if err == nil {
			return nil
		}
		v.log.Debug("shutdown through the agent", "err", err)
	}
	return notRunning(g.machine.PowerButton())
}

// Kill stops the machine at once. It returns when that is under way.
func (v *VM) Kill(context.Context) error {
	g, err := v.running()
	if err != nil {
		return err
	}
	if v.serial != nil {
		v.serial.abandon() // a vCPU may wait for it
	}
	g.stop(errKilled)
	return nil
}

// Pause stops every vCPU and device.
func (v *VM) Pause(ctx context.Context) error {
	g, err := v.running()
	if err == nil && v.doubt.Load() != nil {
		err = errDoubt
	}
	if err != nil {
		return err
	}
	if err := v.arrive(ctx); err != nil {
		return err
	}
	return notRunning(g.machine.Pause(ctx))
}

// Suspend implements workload.Suspender: the agent stops the workload.
func (v *VM) Suspend(ctx context.Context) error {
	g, err := v.withAgent()
	if err != nil {
		return err
	}
	if err := v.arrive(ctx); err != nil {
		return err
	}
	v.suspended.Store(true)
	err = g.session.Suspend(ctx)
	if err != nil { // or it is not known
		v.suspended.Store(false)
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clockTimeout)
		defer cancel()
		_ = g.session.Continue(cctx)
	}
	return err
}

// Resume undoes Pause and Suspend and tells the guest what time it is. It is refused while
// the instance is being moved, or may run elsewhere.
func (v *VM) Resume(ctx context.Context) error {
	g, err := v.running()
	if err == nil && v.doubt.Load() != nil {
		err = errDoubt
	}
	if err != nil {
		return err
	}
	if err := commit.MayRun(v.dir); err != nil {
		return fmt.Errorf("%w: %w", workload.ErrNotRunning, err)
	}
	if err := g.machine.Resume(ctx); err != nil {
		return notRunning(err)
	}
	if g.session == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	if err := g.session.SyncClock(ctx, time.Now()); err != nil {
		v.log.Warn("the guest's clock was not set after a pause", "err", err) // it runs nevertheless
	}
	if !v.suspended.Load() {
		return nil
	}
	if err := g.session.Continue(ctx); err != nil {
		return fmt.Errorf("the guest runs, its workload stands still yet: %w", err)
	}
	v.suspended.Store(false)
	return nil
}

// notRunning puts the machine's end into the words of package workload.
func notRunning(err error) error {
	if errors.Is(err, machine.ErrEnded) {
		return workload.ErrNotRunning
	}
	return err
}

// Exec runs another process in the guest.
func (v *VM) Exec(ctx context.Context, spec *specs.Process, io workload.Stdio) (workload.Process, error) {
	return v.execIn(ctx, "", v.cfg.Spec, spec, io)
}

// execIn runs a process in a container of the guest's, whose configuration is of.
func (v *VM) execIn(ctx context.Context, container string, of *specs.Spec, spec *specs.Process, io workload.Stdio) (workload.Process, error) {
	g, err := v.withAgent()
	if err != nil {
		return nil, err
	}
	guest := guestProcess(v.execID(), spec)
	guest.Container = container
	if guest.Filter, err = filter(of.Linux); err != nil {
		return nil, err
	}
	p, err := g.session.Exec(ctx, guest, agent.IO{Stdin: io.In, Stdout: io.Out, Stderr: io.Err})
	if err != nil {
		return nil, startError(err)
	}
	return &process{p: p, vm: v, guest: g}, nil
}

// execID names a process to the agent. A guest that was restored knows those of
// the original.
func (v *VM) execID() string {
	n := v.execs.Add(1)
	switch {
	case v.heir: // it knows those of this instance's earlier owner, too
		return fmt.Sprintf("exec-%.12s-%d-%d", v.cfg.ID, os.Getpid(), n)
	case v.cfg.VM.Restore == nil && v.cfg.VM.Receive == nil:
		return fmt.Sprintf("exec-%d", n)
	}
	return fmt.Sprintf("exec-%.12s-%d", v.cfg.ID, n)
}
