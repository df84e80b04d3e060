package microvm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/spare"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/plan"
)

var _ workload.Reconfigured = (*VM)(nil)

// arrival is what one offer has led to.
type arrival struct {
	*machine.Machine
	v       *VM
	io      workload.Stdio
	guest   *guest // set by Resume
	gap     *gap
	renamed bool // the guest's addresses are another one's here
}

// NewConfig implements workload.Reconfigured.
func (v *VM) NewConfig() *workload.Config {
	if !v.learnt {
		return nil
	}
	return v.cfg
}

// receive is Start for a VM that comes from another owner. Offers that come to
// nothing leave it waiting for the next one.
func (v *VM) receive(ctx context.Context, io workload.Stdio) (workload.Process, error) {
	records, err := commit.OpenDir(filepath.Join(v.dir, moves.ReceivedDir))
	if err != nil {
		return nil, err
	}
	l, err := listen(v.cfg.VM.Receive.Endpoint)
	if err != nil {
		return nil, errors.Join(err, records.Close())
	}
	own, intake := v.cfg, &spare.Intake{Images: v.cfg.VM.Receive.Images}
	r := migrate.NewReceiver(records, migrate.ReceiveOptions{
		Prepare: func(ctx context.Context, o migrate.Offer) (migrate.Destination, error) {
			a, err := v.prepare(ctx, own, o, io)
			if err != nil {
				return nil, errors.Join(err, v.release())
			}
			return a, nil
		},
		Drop: func(migrate.Destination) {
			if err := v.release(); err != nil {
				v.log.Warn("cleaning up after an offer that came to nothing", "err", err)
			}
		},
		Facts: v.facts(own),
		Image: intake.Image,
		Pull:  v.pages(own.VM.Receive.Endpoint, l),
		Once:  true, // then it answers questions only, as long as the guest lives here
		Log:   v.log,
	})
	serving, end := context.WithCancel(context.Background())
	go func() {
		if err := r.Serve(serving, l); err != nil {
			v.log.Warn("receiving", "err", err)
		}
		_ = records.Close()
	}()
	for {
		select {
		case o := <-r.Outcomes():
			if o.Destination == nil {
				v.log.Warn("a VM was offered and did not come", "vm", o.Offer.VM, "err", o.Err)
				continue
			}
			a := o.Destination.(*arrival)
			context.AfterFunc(a.guest.ctx, end)
			intake.Release() // v.image does by now
			return v.arrived(ctx, a)
		case <-ctx.Done():
			end()
			intake.Release()
			return nil, context.Cause(ctx)
		}
	}
}

// prepare builds the machine that o describes. Nothing of the guest runs yet.
func (v *VM) prepare(ctx context.Context, own *workload.Config, o migrate.Offer, io workload.Stdio) (*arrival, error) {
	d, err := workload.ParseDescription(o.Description)
	if err != nil {
		return nil, err
	}
	cfg := d.Config
	cfg.ID, cfg.Name, cfg.AutoRemove, cfg.DataDir = own.ID, own.Name, own.AutoRemove, own.DataDir
	cfg.VM.Receive = own.VM.Receive
	cfg.Res.BlockIO = nil // of devices of the host that it left
	p, err := plan.Parse(o.Plan)
	if err != nil {
		return nil, err
	}
	cfg.Net.Publish = slices.DeleteFunc(cfg.Net.Publish, func(x workload.Port) bool { return p.Action(plan.Port, spare.PortName(x)) == plan.Drop })
	if own.Net.Publish != nil {
		cfg.Net.Publish = own.Net.Publish
	}
	if err := admit(cfg, own.VM.Receive, p, d.Rootfs); err != nil {
		return nil, err
	}
	if err := takeDisks(cfg, own.DataDir, o.Volumes); err != nil {
		return nil, err
	}
	a := &arrival{v: v, io: io, gap: &gap{session: o.Session, known: make(chan struct{})}}
	v.gap.Store(a.gap)
	c, err := a.surround(ctx, cfg, d)
	if err != nil {
		return nil, err
	}
	c.Restore = &machine.Restore{FollowTime: true}
	if v.machine, err = machine.New(c); err != nil {
		return nil, err
	}
	a.Machine = v.machine
	v.times.mark("prepared")
	return a, nil
}

// surround makes what is around the machine, with the guest's own addresses where
// nobody has them here.
func (a *arrival) surround(ctx context.Context, cfg *workload.Config, d workload.Description) (machine.Config, error) {
	v := a.v
	v.cfg, v.learnt = cfg, true
	if !cfg.Net.Attached() || d.IP == "" {
		return v.surround(ctx, a.io)
	}
	fresh := cfg.Net
	fresh.IP, fresh.MAC = netip.Addr{}, ""
	ip, err := netip.ParseAddr(d.IP)
	if err != nil {
		return machine.Config{}, fmt.Errorf("address %q of the guest: %w", d.IP, err)
	}
	cfg.Net.IP, cfg.Net.MAC = ip, d.MAC
	c, err := v.surround(ctx, a.io)
	if errors.Is(err, hostnet.ErrAddressInUse) || errors.Is(err, hostnet.ErrOptions) { // the source is on this host, or the network is another
		if err := v.release(); err != nil {
			return c, err
		}
		a.renamed, cfg.Net = true, fresh
		c, err = v.surround(ctx, a.io)
	}
	return c, err
}

// Resume implements migrate.Destination: the right to run the guest is ours.
func (a *arrival) Resume(ctx context.Context) error {
	a.v.mustEnter()
	g, err := a.v.converse()
	if err != nil {
		return err
	}
	a.guest = g
	return a.Machine.Resume(ctx)
}

// arrived becomes the host of a guest that runs here by now.
func (v *VM) arrived(ctx context.Context, a *arrival) (workload.Process, error) {
	v.times.mark("arrived")
	use := a.Clock()
	v.log.Info("a VM has arrived", "clock_advanced", use.Advanced, "clock_lags", use.Passed-use.Advanced, "new_addresses", a.renamed)
	p, err := v.take(ctx, a.guest, a.io, func(ctx context.Context, s *agent.Session) error {
		if f := v.fills.Load(); f == nil {
			a.gap.end(v.beat(ctx, s, false))
		} else { // its agent may wait for pages, too
			go func() {
				if f.Wait(a.guest.ctx) == nil {
					a.gap.end(v.beat(a.guest.ctx, s, false))
				}
			}()
		}
		if a.renamed {
			return s.Identify(ctx, v.cfg.Spec.Hostname, v.network())
		}
		return s.SyncClock(ctx, time.Now())
	})
	if err != nil {
		return nil, v.explain(a.guest, err)
	}
	v.begun = true
	return p, nil
}
