package microvm

import (
	"context"
	"errors"
	"os"

	"github.com/hvctl/hvctl/internal/workload"
)

var _ workload.Dumper = (*VM)(nil)

// Dump implements workload.Dumper. A file that could not be finished is removed.
func (v *VM) Dump(ctx context.Context, file string) (r workload.DumpReport, err error) {
	g, err := v.running()
	if err != nil {
		return r, err
	}
	if err := v.settle(ctx); err != nil { // a hole is no zeroes before that
		return r, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return r, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(file)
		}
	}()
	report, err := g.machine.Dump(ctx, f)
	return workload.DumpReport(report), notRunning(err)
}
