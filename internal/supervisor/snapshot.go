package supervisor

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
)

// Snapshot implements control.Owner. It ends early when the client goes away.
func (o *owner) Snapshot(ctx context.Context, r control.SnapshotRequest) (workload.SnapshotReport, error) {
	if err := o.running(); err != nil {
		closeAll(r.Files)
		return workload.SnapshotReport{}, err
	}
	s, ok := o.rt.(workload.Snapshotter)
	if !ok {
		closeAll(r.Files)
		return workload.SnapshotReport{}, fmt.Errorf("%s: snapshot: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	bases := r.Files
	for _, name := range r.Bases {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hold us
		if err != nil {
			closeAll(bases)
			return workload.SnapshotReport{}, fmt.Errorf("snapshot: %w", err)
		}
		bases = append(bases, f)
	}
	release, err := o.still() // it pauses and resumes
	if err != nil {
		closeAll(bases)
		return workload.SnapshotReport{}, err
	}
	defer release()
	report, err := s.Snapshot(ctx, r.Dir, bases)
	if err != nil {
		return report, fmt.Errorf("snapshot: %w", err)
	}
	o.event(control.EventSnapshot, map[string]string{"paused": time.Duration(report.PausedNs).String()})
	return report, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
