package supervisor

import (
	"context"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
)

// Snapshot implements control.Owner. It ends early when the client goes away.
func (o *owner) Snapshot(ctx context.Context, r control.SnapshotRequest) (workload.SnapshotReport, error) {
	if err := o.running(); err != nil {
		return workload.SnapshotReport{}, err
	}
	s, ok := o.rt.(workload.Snapshotter)
	if !ok {
		return workload.SnapshotReport{}, fmt.Errorf("%s: snapshot: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	release, err := o.still() // it pauses and resumes
	if err != nil {
		return workload.SnapshotReport{}, err
	}
	defer release()
	report, err := s.Snapshot(ctx, r.Dir, r.Bases)
	if err != nil {
		return report, fmt.Errorf("snapshot: %w", err)
	}
	o.event(control.EventSnapshot, map[string]string{"paused": time.Duration(report.PausedNs).String()})
	return report, nil
}
