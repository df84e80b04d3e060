package machine

import (
	"fmt"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
)

// Reason is why a machine stopped.
type Reason string

// The reasons. What the guest wanted is told apart from what happened to it.
const (
	PowerOff    Reason = "poweroff"     // ACPI S5
	Reboot      Reason = "reboot"       // ACPI reset register, keyboard controller or port 0xcf9
	TripleFault Reason = "triple-fault" // the CPU shut down: a crash, or a reboot by force
	Crash       Reason = "crash"        // the guest's kernel reported a panic
	// WatchdogFired: the guest has started its watchdog and not written to it in time.
	WatchdogFired Reason = "watchdog"
	Killed        Reason = "killed" // the context of Run ended
	Failed        Reason = "failed" // the VMM could not go on
)

// End is how a machine stopped.
type End struct {
	Reason Reason
	Err    error // for Failed and Killed
	CPU    int   // for TripleFault: which one; the fault itself KVM does not tell
}

// String returns the reason, with the error if there is one.
func (e End) String() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Reason, e.Err)
	}
	return string(e.Reason)
}

// finish records the first end; later ones are its consequences.
func (m *Machine) finish(e End) {
	select {
	case m.end <- e:
	default:
	}
}

func (m *Machine) fail(err error) { m.finish(End{Reason: Failed, Err: m.explain(err)}) }

// event hears from a vCPU thread that the vCPU has parked itself.
func (m *Machine) event(e vcpu.Event) {
	switch e.Kind {
	case vcpu.TripleFault:
		m.finish(End{Reason: TripleFault, CPU: e.Index})
	case vcpu.SystemEvent:
		r, ok := systemEvents[e.System]
		if !ok {
			m.fail(fmt.Errorf("vCPU %d: KVM reports unknown system event %d", e.Index, e.System))
			return
		}
		m.finish(End{Reason: r})
	case vcpu.Failure:
		m.fail(e.Err)
	}
}

var systemEvents = map[uint32]Reason{
	kvm.SystemEventShutdown: PowerOff,
	kvm.SystemEventReset:    Reboot,
	kvm.SystemEventCrash:    Crash,
}
