package supervisor

import (
	"context"
	"fmt"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
)

// Dump implements control.Owner. It ends early when the client goes away.
func (o *owner) Dump(ctx context.Context, r control.DumpRequest) (workload.DumpReport, error) {
	if err := o.running(); err != nil {
		return workload.DumpReport{}, err
	}
	d, ok := o.rt.(workload.Dumper)
	if !ok {
		return workload.DumpReport{}, fmt.Errorf("%s: dump: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	release, err := o.still() // it pauses and resumes
	if err != nil {
		return workload.DumpReport{}, err
	}
	defer release()
	report, err := d.Dump(ctx, r.File)
	if err != nil {
		return report, fmt.Errorf("dump: %w", err)
	}
	return report, nil
}
