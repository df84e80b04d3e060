package microvm

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
)

// A raw VM is somebody's own kernel and disks with no agent inside: its first
// process is the machine itself, and its terminal the serial console.

// Exit codes of a raw VM, by how it ended.
var rawExit = map[machine.Reason]int{
	machine.PowerOff:      0,
	machine.Reboot:        1,
	machine.TripleFault:   2,
	machine.Crash:         2,
	machine.WatchdogFired: 2,
	machine.Killed:        128 + int(unix.SIGKILL),
	machine.Failed:        workload.ExitOwnFailure,
}

// serialOut is where the serial port's output goes: to console.log, and of a
// raw VM also to whoever is attached.
func (v *VM) serialOut(out io.Writer) io.Writer {
	if !v.cfg.VM.Raw || out == nil {
		return v.console
	}
	v.serial = newRelay(v.times.first("first output", out))
	return io.MultiWriter(v.console, v.serial)
}

func (v *VM) startRaw(stdio workload.Stdio) workload.Process {
	g := v.launch(nil, func() {
		if v.serial != nil {
			v.serial.finish() // all output before the exit
		}
	})
	if stdio.In != nil {
		go g.typeIn(stdio.In)
	}
	return &rawProcess{v, g}
}

// typeIn feeds the serial port until either side ends.
func (g *guest) typeIn(in io.Reader) {
	buf := make([]byte, 512)
	for {
		n, err := in.Read(buf)
		g.machine.Input(buf[:n])
		if err != nil {
			return
		}
	}
}

type rawProcess struct {
	vm    *VM
	guest *guest
}

// Wait returns how the machine ended.
func (p *rawProcess) Wait(ctx context.Context) (workload.Exit, error) {
	select {
	case <-p.guest.ended:
	case <-p.guest.stuck:
		return stuckExit(), nil
	case <-ctx.Done():
		return workload.Exit{}, context.Cause(ctx)
	}
	e := workload.Exit{Code: rawExit[p.guest.end.Reason], At: time.Now()}
	if p.guest.end.Reason == machine.Failed {
		e.Err = ending(p.guest.end)
	}
	return e, nil
}

// Signal presses the power button for signals that ask to end, and stops the
// machine for SIGKILL.
func (p *rawProcess) Signal(ctx context.Context, sig unix.Signal) error {
	switch sig {
	case unix.SIGKILL:
		return p.vm.Kill(ctx)
	case unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPWR:
		return notRunning(p.guest.machine.PowerButton())
	}
	return fmt.Errorf("%w: a guest without agent takes no signals but TERM, INT, HUP, PWR (power button) and KILL", workload.ErrUnsupported)
}

// Resize does nothing: a serial line has no size.
func (p *rawProcess) Resize(context.Context, uint16, uint16) error { return nil }
