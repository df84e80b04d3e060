package vcpu

import (
	"time"

	"github.com/hvctl/hvctl/kvm"
)

// Exit is one exit of a vCPU, as a Tracer sees it before it is served.
type Exit struct {
	At     time.Time
	CPU    int
	Reason kvm.ExitReason
	// Of port and memory accesses: where, how wide (bytes), how many elements
	// of a string instruction, and which way.
	Addr  uint64
	Size  int
	Count int
	Write bool
	// Value is the first element that the guest writes, 8 bytes at most; what
	// it reads is not known yet.
	Value uint64
}

// Tracer is told of every exit, on the vCPU's thread: it must be quick, and must
// not block or call back into the VCPU.
type Tracer func(Exit)

// SetTracer says who is told of exits from now on; nil: nobody. It may be called
// at any time. Without a tracer an exit costs one load more; with one there are
// exits for Options.Causes, too. The error is ErrStopped.
func (v *VCPU) SetTracer(t Tracer) error {
	causes := v.o.Causes
	if t == nil {
		v.tracer.Store(nil)
	} else {
		v.tracer.Store(&t)
		causes = nil
	}
	return v.Do(func(c *kvm.VCPU) error {
		c.ServeCauses(causes, &v.counters.Causes)
		return nil
	})
}

// trace describes the exit that is about to be served.
func (v *VCPU) trace(t Tracer, reason kvm.ExitReason) {
	e := Exit{At: time.Now(), CPU: v.o.Index, Reason: reason}
	switch reason {
	case kvm.ExitIO:
		io := v.cpu.IO()
		e.Addr, e.Size, e.Count, e.Write = uint64(io.Port), io.Size, io.Count, io.Out
		if io.Out && io.Count > 0 {
			e.Value = littleEndian(io.Element(0))
		}
	case kvm.ExitMMIO:
		m := v.cpu.MMIO()
		e.Addr, e.Size, e.Count, e.Write = m.Addr, len(m.Data), 1, m.Write
		if m.Write {
			e.Value = littleEndian(m.Data)
		}
	case kvm.ExitDebug:
		e.Addr = v.cpu.Debug().PC
	}
	t(e)
}

// littleEndian is the number in the first 8 bytes of b.
func littleEndian(b []byte) (n uint64) {
	for i, c := range b[:min(len(b), 8)] {
		n |= uint64(c) << (8 * i)
	}
	return n
}
