package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
)

// migrator returns the runtime, if it is one that can be sent.
func (o *owner) migrator(what string) (workload.Migrator, error) {
	if err := o.running(); err != nil {
		return nil, err
	}
	m, ok := o.rt.(workload.Migrator)
	if !ok {
		return nil, fmt.Errorf("%s: %s: %w (%s)", o.cfg.Name, what, workload.ErrUnsupported, o.cfg.Backend)
	}
	return m, nil
}

// PlanMigration implements control.Owner.
func (o *owner) PlanMigration(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error) {
	m, err := o.migrator("migrate")
	if err != nil {
		return nil, err
	}
	if err := o.here(); err != nil {
		return nil, err
	}
	return m.Plan(ctx, r)
}

// Migration implements control.Owner.
func (o *owner) Migration(context.Context) (workload.MigrationStatus, error) {
	m, err := o.migrator("migrate")
	if err != nil {
		return workload.MigrationStatus{}, err
	}
	return m.Migration(), nil
}

// CancelMigration implements control.Owner.
func (o *owner) CancelMigration(ctx context.Context) error {
	m, err := o.migrator("migrate")
	if err != nil {
		return err
	}
	return m.CancelMigration(ctx)
}

// RecoverMigration implements control.Owner.
func (o *owner) RecoverMigration(ctx context.Context) error {
	m, err := o.migrator("migrate")
	if err != nil {
		return err
	}
	return m.RecoverMigration(ctx)
}

// Migrate implements control.Owner. It is given up when the client goes away, as
// long as that is possible.
func (o *owner) Migrate(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error) {
	m, err := o.migrator("migrate")
	if err != nil {
		return nil, err
	}
	release, err := o.still() // it pauses, and nobody else may resume
	if err != nil {
		return nil, err
	}
	release = sync.OnceFunc(release)
	defer release()
	r.Left = release // who waits for it is refused then
	o.event(control.EventMigrate, map[string]string{"to": r.To.Address})
	return m.Migrate(ctx, r)
}

// Resolve implements control.Owner.
func (o *owner) Resolve(ctx context.Context, r control.ResolveRequest) error {
	m, err := o.migrator("resolve")
	if err != nil {
		return err
	}
	return m.Resolve(ctx, r.Keep)
}

// reconfigure takes over what the runtime has learnt of itself. o.mu is held.
func (o *owner) reconfigure(rt workload.Runtime) {
	r, ok := rt.(workload.Reconfigured)
	if !ok {
		return
	}
	cfg := r.NewConfig()
	if cfg == nil {
		return
	}
	o.cfg = cfg
	if err := o.inst.WriteConfig(cfg); err != nil {
		o.log.Error("recording the configuration", "err", err)
	}
}
