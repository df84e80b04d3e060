package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
)

var _ workload.Migrator = (*VM)(nil)

var errMoved = errors.New("the guest runs elsewhere")

// Migrate implements workload.Migrator.
func (v *VM) Migrate(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error) {
	doubt := false
	defer func() {
		if !doubt { // else it goes with the last one who asks
			closeDialer(r)
		}
	}()
	g, err := v.withAgent()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(v.mayMove(g), v.notLater(r)); err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	dial, err := dialer(r)
	if err != nil {
		return nil, err
	}
	if err := v.settle(ctx); err != nil {
		return nil, err
	}
	d, err := v.describe()
	if err != nil {
		return nil, err
	}
	p, err := v.plan(ctx, g, dial, r.Binds)
	if err == nil {
		err = refusals(p)
	}
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	row, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	h := &handover{
		v: v, g: g, dial: dial, to: r.To.Address, journal: commit.File(filepath.Join(v.dir, moves.SentFile)),
		options: migrate.SendOptions{
			VM: v.cfg.Name, Peer: r.To.Address, Plan: row,
			Streams: r.Streams, Rate: r.Rate, Downtime: time.Duration(r.DowntimeNs), Timeout: time.Duration(r.TimeoutNs),
			OnTimeout: migrate.OnTimeout(r.OnTimeout), AtOnce: r.AtOnce, Ended: g.ctx.Done(), Compress: migrate.Compress(r.Compress), Log: v.log,
		},
	}
	ctx, s := v.begin(ctx, r.To.Address, r.Left)
	s.account(v, p)
	carried, err := v.carry(ctx, dial, p, d.Config, h.options)
	if err == nil {
		h.options.Description, err = d.Describe()
	}
	if err != nil {
		s.end(&migrate.Report{Outcome: string(commit.Kept), Reason: err.Error()}, err)
		return nil, fmt.Errorf("migrate: %w", err)
	}
	v.beat(ctx, g.session, true)
	h.options.Progress, h.options.Operator = s.progress, s.word
	report, err := migrate.Send(ctx, outgoing{g.machine}, dial, h.journal, h.options)
	report.Image = carried
	switch {
	case err == nil:
		h.left()
		if p := report.PostCopy; p != nil && p.State != "drained" {
			err = fmt.Errorf("%w: %s: %s", migrate.ErrLost, p.State, p.Why)
			break
		}
		var gerr error
		if report.GuestGap, gerr = askGap(context.WithoutCancel(ctx), dial, report.Session, v.cfg.Name); gerr != nil {
			v.log.Info("for how long the guest stood still by its own clock is not known", "err", gerr)
		}
	case errors.Is(err, migrate.ErrInDoubt):
		doubt = true
		h.ask()
	default:
		v.beat(context.WithoutCancel(ctx), g.session, false)
	}
	s.end(report, err)
	b, jerr := json.Marshal(report)
	return b, errors.Join(err, jerr)
}

// mayMove refuses what cannot be sent.
func (v *VM) mayMove(g *guest) error {
	switch {
	case v.doubt.Load() != nil:
		return errDoubt
	case g.machine.Paused() || v.suspended.Load():
		return fmt.Errorf("%w: the instance is paused; resume it first", workload.ErrUnsupported)
	}
	if err := overlaid(v.cfg.VM.Disks); err != nil {
		return err
	}
	return g.machine.CanSave()
}
