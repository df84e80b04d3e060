package supervisor

import (
	"context"
	"fmt"

	"github.com/hvctl/hvctl/internal/workload"
)

// Trace implements control.Owner.
func (o *owner) Trace(ctx context.Context, r workload.TraceRequest, ready func(), fn func(workload.TraceExit) error) error {
	if err := o.here(); err != nil {
		return err
	}
	t, ok := o.rt.(workload.Tracer)
	if !ok {
		return fmt.Errorf("%s: trace: %w (%s): strace shows a container's system calls", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	return t.Trace(ctx, r, ready, fn)
}
