package microvm

import (
	"testing"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
)

func TestOnlyUnwantedEndsAreLookedAt(t *testing.T) {
	for _, c := range []struct {
		why  machine.Reason
		raw  bool
		want string
	}{
		{machine.Crash, false, "dump"},
		{machine.Crash, true, "dump"},
		{machine.Reboot, false, "dump"}, // how a panic looks without a driver for the panic device
		{machine.Reboot, true, ""},
		{machine.TripleFault, false, "dump"},
		{machine.TripleFault, true, ""},
		{machine.PowerOff, false, ""},
		{machine.Killed, false, ""},
		{machine.WatchdogFired, true, "pause"},
	} {
		v := &VM{cfg: &workload.Config{VM: workload.VM{Raw: c.raw, OnPanic: workload.AtEndDump, Watchdog: workload.AtEndPause}}}
		if got := v.unwanted(machine.End{Reason: c.why}); got != c.want {
			t.Errorf("%s, raw %v: %q, want %q", c.why, c.raw, got, c.want)
		}
	}
}
