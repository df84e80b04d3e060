package microvm

import (
	"context"
	"errors"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
)

var _ workload.Tracer = (*VM)(nil)

// errEnough ends a trace that has told all that was wanted.
var errEnough = errors.New("enough")

// Trace implements workload.Tracer. It ends with the guest.
func (v *VM) Trace(ctx context.Context, r workload.TraceRequest, ready func(), fn func(workload.TraceExit) error) error {
	g, err := v.running()
	if err != nil {
		return err
	}
	ctx, over := v.untilEnded(ctx, g)
	defer over(nil)
	wants := func(e machine.Exit) bool { return r.Wants(e.CPU, e.Reason.String(), e.Addr) }
	told := uint64(0)
	err = g.machine.Trace(ctx, wants, ready, func(e machine.Traced) error {
		if err := fn(workload.TraceExit{
			Time: e.At, VCPU: e.CPU, Reason: e.Reason.String(), Addr: e.Addr, Size: e.Size, Count: e.Count, Write: e.Write,
			Value: e.Value, Device: e.Device, Dropped: e.Dropped,
		}); err != nil {
			return err
		}
		if told++; told == r.Limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return notRunning(err)
}
