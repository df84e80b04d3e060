package microvm

import (
	"context"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
)

// unwanted says what is to become of a guest that has ended in that way; empty:
// nothing, the VM ends.
func (v *VM) unwanted(e machine.End) string {
	switch e.Reason {
	case machine.WatchdogFired:
		return v.cfg.VM.Watchdog
	case machine.Crash:
		return v.cfg.VM.OnPanic
	case machine.Reboot, machine.TripleFault:
		if !v.cfg.VM.Raw { // that is how a panic looks without a driver for the panic device
			return v.cfg.VM.OnPanic
		}
	}
	return ""
}

// atEnd is machine.Config.Ending: the guest has ended by itself, and can still be
// looked at until it returns.
func (v *VM) atEnd(ctx context.Context, e machine.End) {
	switch v.unwanted(e) {
	case workload.AtEndDump:
		file := filepath.Join(v.dir, workload.CrashFile)
		if _, err := v.Dump(ctx, file); err != nil {
			v.log.Error("the guest has crashed and could not be written down", "how", e.Reason, "err", err)
			return
		}
		v.log.Warn("the guest has crashed and is written down", "how", e.Reason, "file", file)
	case workload.AtEndPause:
		if err := v.machine.Pause(ctx); err != nil {
			v.log.Error("the guest has crashed and could not be paused", "how", e.Reason, "err", err)
			return
		}
		v.log.Warn("the guest has crashed and stands still until it is killed", "how", e.Reason)
		<-ctx.Done()
	}
}
