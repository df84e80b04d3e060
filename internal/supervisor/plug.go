package supervisor

import (
	"context"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
)

// plugger returns the runtime as one whose devices come and go.
func (o *owner) plugger() (workload.Plugger, error) {
	if err := o.running(); err != nil {
		return nil, err
	}
	p, ok := o.rt.(workload.Plugger)
	if !ok {
		return nil, fmt.Errorf("%s: devices: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	return p, nil
}

// Devices implements control.Owner.
func (o *owner) Devices(ctx context.Context) ([]workload.Device, error) {
	p, err := o.plugger()
	if err != nil {
		return nil, err
	}
	return p.Devices(ctx)
}

// Plug implements control.Owner. It gives up when the client goes away.
func (o *owner) Plug(ctx context.Context, r workload.PlugRequest) (workload.Device, error) {
	p, err := o.plugger()
	if err != nil {
		for _, f := range r.Files {
			_ = f.Close()
		}
		return workload.Device{}, err
	}
	ctx, cancel := patience(ctx, r.TimeoutSeconds)
	defer cancel()
	d, err := p.Plug(ctx, r)
	if err != nil {
		return d, fmt.Errorf("device add: %w", err)
	}
	o.event(control.EventPlug, map[string]string{"device": d.ID, "kind": d.Kind})
	return d, nil
}

// Unplug implements control.Owner.
func (o *owner) Unplug(ctx context.Context, r workload.UnplugRequest) error {
	p, err := o.plugger()
	if err != nil {
		return err
	}
	ctx, cancel := patience(ctx, r.TimeoutSeconds)
	defer cancel()
	if err := p.Unplug(ctx, r); err != nil {
		return fmt.Errorf("device rm: %w", err)
	}
	o.event(control.EventUnplug, map[string]string{"device": r.ID})
	return nil
}

// patience bounds what a guest is waited for.
func patience(ctx context.Context, seconds int) (context.Context, context.CancelFunc) {
	if seconds == 0 {
		seconds = workload.PlugTimeout
	}
	return context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
}
