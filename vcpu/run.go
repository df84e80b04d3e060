package vcpu

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/kvm"
)

// step enters the guest once and handles the exit. It returns the state the
// vCPU is in afterwards.
func (v *VCPU) step() phase {
	reason, err := v.cpu.Run()
	if err != nil {
		return v.fail(fmt.Errorf("vCPU %d: %w (exit %v)", v.o.Index, err, reason))
	}
	return v.handle(reason)
}

// handle serves one exit.
func (v *VCPU) handle(reason kvm.ExitReason) phase {
	if t := v.tracer.Load(); t != nil {
		v.trace(*t, reason)
	}
	switch reason {
	case kvm.ExitIO:
		v.counters.PIO.Add(1)
		io := v.cpu.IO()
		for i := range io.Count {
			if io.Out {
				v.o.PIO.Write(uint64(io.Port), io.Element(i))
			} else {
				v.o.PIO.Read(uint64(io.Port), io.Element(i))
			}
		}
		return running
	case kvm.ExitMMIO:
		v.counters.MMIO.Add(1)
		m := v.cpu.MMIO()
		if m.Write {
			v.o.MMIO.Write(m.Addr, m.Data)
		} else {
			v.o.MMIO.Read(m.Addr, m.Data)
		}
		return running
	case kvm.ExitIntr:
		// Clear, then look at pending again: a request that came in between
		// is seen by the loop, one that comes later sets the flag anew.
		v.counters.Interrupted.Add(1)
		v.cpu.SetImmediateExit(false)
		return running
	case kvm.ExitAgain: // KVM_RUN of a vCPU that waited for its INIT
		if v.o.Woken != nil {
			v.o.Woken()
		}
		return running
	case kvm.ExitDebug:
		if v.o.Debug == nil {
			return v.fail(fmt.Errorf("vCPU %d: a debug exit that nobody asked for", v.o.Index))
		}
		v.counters.Debug.Add(1)
		if v.o.Debug(v.cpu, *v.cpu.Debug()) {
			return parked
		}
		return running
	case kvm.ExitShutdown:
		return v.report(Event{Kind: TripleFault})
	case kvm.ExitSystemEvent:
		return v.report(Event{Kind: SystemEvent, System: v.cpu.SystemEvent().Type})
	case kvm.ExitInternalError:
		return v.fail(fmt.Errorf("vCPU %d: KVM internal error: %v", v.o.Index, v.cpu.InternalError()))
	case kvm.ExitMemoryFault:
		f := v.cpu.MemoryFault()
		return v.fail(fmt.Errorf("vCPU %d: the host has no memory for %#x of the guest: %w", v.o.Index, f.GPA, unix.EFAULT))
	case kvm.ExitFailEntry:
		return v.fail(fmt.Errorf("vCPU %d: KVM could not enter the guest: hardware reason %#x", v.o.Index, v.cpu.FailEntry().HardwareEntryFailureReason))
	default:
		return v.fail(fmt.Errorf("vCPU %d: unexpected exit %v", v.o.Index, reason))
	}
}

// settle finishes the I/O of the last exit, which may take several rounds for
// a string instruction, and may end the vCPU. It returns the state the vCPU is
// in afterwards.
func (v *VCPU) settle() phase {
	for {
		err := v.cpu.CompleteExit()
		var p *kvm.PendingExitError
		switch {
		case err == nil:
			return running
		case !errors.As(err, &p):
			return v.fail(fmt.Errorf("vCPU %d: completing an exit: %w", v.o.Index, err))
		}
		if st := v.handle(p.Reason); st != running {
			return st
		}
	}
}

func (v *VCPU) fail(err error) phase { return v.report(Event{Kind: Failure, Err: err}) }

// report tells the owner why the vCPU will not run again.
func (v *VCPU) report(e Event) phase {
	v.counters.Other.Add(1)
	e.Index = v.o.Index
	v.o.Event(e)
	return over
}
