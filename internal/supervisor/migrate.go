package supervisor

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
)

// Migrate implements control.Owner. It is given up when the client goes away, as
// long as that is possible.
func (o *owner) Migrate(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error) {
	if err := o.running(); err != nil {
		return nil, err
	}
	m, ok := o.rt.(workload.Migrator)
	if !ok {
		return nil, fmt.Errorf("%s: migrate: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	o.freezing.Lock() // it pauses, and nobody else may resume
	defer o.freezing.Unlock()
	o.event(control.EventMigrate, map[string]string{"to": r.To.Address})
	return m.Migrate(ctx, r)
}

// Resolve implements control.Owner.
func (o *owner) Resolve(ctx context.Context, r control.ResolveRequest) error {
	if err := o.running(); err != nil {
		return err
	}
	m, ok := o.rt.(workload.Migrator)
	if !ok {
		return fmt.Errorf("%s: resolve: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
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
