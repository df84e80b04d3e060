package machine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
)

// ErrTraced is wrapped when somebody traces the machine already.
var ErrTraced = errors.New("the exits are being traced already")

// traceBuffer is how many exits may wait for whoever is told of them.
const traceBuffer = 4096

// Exit is one exit of a vCPU; see package vcpu.
type Exit = vcpu.Exit

// Traced is an exit with what this machine knows of it.
type Traced struct {
	Exit
	Device  string // that an access is for; empty: nobody's
	Dropped uint64 // exits before this one that came faster than fn took them
}

// Trace tells fn of those exits of all vCPUs that wants returns true for, until fn
// fails or ctx ends, and returns what fn returned. wants is called on the vCPUs'
// threads, and must be quick; ready, when all of them are watched. Without a trace
// exits cost what they always do. It may run while the machine is paused, saved
// and dumped.
func (m *Machine) Trace(ctx context.Context, wants func(vcpu.Exit) bool, ready func(), fn func(Traced) error) (err error) {
	if m.ended.Load() {
		return ErrEnded
	}
	if !m.traced.CompareAndSwap(false, true) {
		return ErrTraced
	}
	defer m.traced.Store(false)
	exits := make(chan vcpu.Exit, traceBuffer)
	var dropped atomic.Uint64
	defer func() { err = errors.Join(err, m.setTracer(nil)) }()
	err = m.setTracer(func(e vcpu.Exit) {
		if !wants(e) {
			return
		}
		select {
		case exits <- e:
		default:
			dropped.Add(1)
		}
	})
	if err != nil {
		return err
	}
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-exits:
			if err := fn(Traced{e, m.deviceAt(e), dropped.Swap(0)}); err != nil {
				return err
			}
		}
	}
}

func (m *Machine) setTracer(t vcpu.Tracer) error {
	for _, c := range m.cpus {
		if err := c.SetTracer(t); err != nil && !errors.Is(err, vcpu.ErrStopped) {
			return fmt.Errorf("trace vCPU %d: %w", c.Index(), err)
		}
	}
	return nil
}

// deviceAt names whose an access is now.
func (m *Machine) deviceAt(e vcpu.Exit) string {
	switch e.Reason {
	case kvm.ExitIO:
		return m.pio.Name(e.Addr, e.Size)
	case kvm.ExitMMIO:
		return m.mmio.Name(e.Addr, e.Size)
	}
	return ""
}
