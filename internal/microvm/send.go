package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
)

var _ workload.Migrator = (*VM)(nil)

// sentRecord is where an owner notes, in the instance's directory, to whom it has
// given the right to run the guest.
const sentRecord = "migration.json"

var errMoved = errors.New("the guest runs elsewhere")

// Migrate implements workload.Migrator.
func (v *VM) Migrate(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error) {
	g, err := v.withAgent()
	if err != nil {
		return nil, err
	}
	dial, err := dialer(r.To)
	if err != nil {
		return nil, err
	}
	if v.writesDisks() {
		return nil, fmt.Errorf("%w: migrate: the VM has writable disks, which are not sent along yet", workload.ErrUnsupported)
	}
	if g.machine.Paused() {
		return nil, fmt.Errorf("%w: migrate: the instance is paused; resume it first", workload.ErrUnsupported)
	}
	d, err := v.describe()
	if err != nil {
		return nil, err
	}
	description, err := d.Describe()
	if err != nil {
		return nil, err
	}
	report, err := migrate.Send(ctx, g.machine, dial, commit.File(filepath.Join(v.dir, sentRecord)), migrate.SendOptions{
		VM: v.cfg.Name, Peer: r.To.Address, Description: description,
		Streams: r.Streams, Rate: r.Rate, Downtime: time.Duration(r.DowntimeNs), Timeout: time.Duration(r.TimeoutNs),
		OnTimeout: migrate.OnTimeout(r.OnTimeout), Throttle: true, Log: v.log,
	})
	b, jerr := json.Marshal(report)
	switch {
	case err == nil:
		v.moved.Store(&r.To.Address)
		g.stop(errMoved)
	case errors.Is(err, migrate.ErrInDoubt):
		v.log.Error("who runs the guest is in doubt; it stays paused here", "err", err)
	}
	return b, errors.Join(err, jerr)
}
