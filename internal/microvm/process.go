package microvm

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/workload"
)

// process is a process in the guest.
type process struct {
	p     *agent.Process
	vm    *VM
	guest *guest
}

// Wait returns how the process ended. When the machine ended first, that is
// how: the code is 128+SIGKILL, and the reason says what happened.
func (p *process) Wait(ctx context.Context) (workload.Exit, error) {
	e, err := p.p.Wait(ctx)
	if err == nil {
		return workload.Exit{Code: e.Status(), OOM: e.OOM, At: time.Now()}, nil
	}
	if ctx.Err() != nil {
		return workload.Exit{}, err
	}
	select {
	case <-p.guest.ended: // a session ends by itself only when the machine has
	case <-p.guest.stuck:
		if why := p.vm.lost.Load(); why != nil { // it waits for a page
			return workload.Exit{Code: workload.SignalExitCode(int(unix.SIGKILL)), At: time.Now(), Err: oneLine((*why).Error())}, nil
		}
		return stuckExit(), nil
	case <-ctx.Done():
		return workload.Exit{}, context.Cause(ctx)
	}
	if p.vm.left.Load() {
		return workload.Exit{Code: workload.ExitOwnFailure, At: time.Now(), Err: "the instance has a new owner process; this process goes on, and nobody hears it any more"}, nil
	}
	if to := p.vm.moved.Load(); to != nil {
		return workload.Exit{At: time.Now(), Err: "it goes on at " + *to}, nil
	}
	return workload.Exit{
		Code: workload.SignalExitCode(int(unix.SIGKILL)), At: time.Now(),
		Err: lostProcess(p.guest.end, p.vm.console.Tail()),
	}, nil
}

// stuckExit is how a VM ended that was killed and did not stop.
func stuckExit() workload.Exit {
	return workload.Exit{Code: workload.SignalExitCode(int(unix.SIGKILL)), At: time.Now(), Err: errStuck.Error()}
}

// Signal sends sig to the process.
func (p *process) Signal(ctx context.Context, sig unix.Signal) error {
	return p.p.Signal(ctx, int(sig))
}

// Resize sets the terminal's size.
func (p *process) Resize(ctx context.Context, columns, rows uint16) error {
	return p.p.Resize(ctx, columns, rows)
}
