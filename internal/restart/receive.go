package restart

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/spare"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/plan"
)

// Arrival is an instance that is waited for. All is set.
type Arrival struct {
	// Instance is a new one, locked by us, whose configuration has ID, Name, AutoRemove, DataDir
	// and the ports that the user wants in place of those that it had.
	Instance *instance.Instance
	Backend  workload.Backend // that of containers
	Images   string           // folder of root file system images in the store
	Root     bool             // whether we may make bridges
	Options  launch.Options
	Log      *slog.Logger
}

// lingers is how long a source is waited for that has not said that it knows the outcome.
const lingers = 30 * time.Second

// Receive waits at l until an instance has come and runs. started is called then; Receive
// returns when the source knows, or has asked nothing for a while. On an error nothing runs here.
func (a *Arrival) Receive(ctx context.Context, l net.Listener, started func()) error {
	records, err := commit.OpenDir(filepath.Join(a.Instance.Dir(), moves.ReceivedDir))
	if err != nil {
		return err
	}
	defer records.Close()
	own, intake := *a.Instance.Config(), &spare.Intake{Images: a.Images}
	defer intake.Release()
	done := make(chan struct{}, 1)
	r := migrate.NewReceiver(records, migrate.ReceiveOptions{
		Prepare: func(ctx context.Context, o migrate.Offer) (migrate.Destination, error) {
			return a.prepare(ctx, &own, o)
		},
		Drop:  func(d migrate.Destination) { d.(*newcomer).drop() },
		Facts: a.facts(&own),
		Image: intake.Image,
		Done: func() {
			select {
			case done <- struct{}{}:
			default:
			}
		},
		Once: true,
		Log:  a.Log,
	})
	serving, end := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.Serve(serving, l) }()
	defer func() {
		end()
		<-served
	}()
	for {
		select {
		case o := <-r.Outcomes():
			if o.Destination == nil {
				a.Log.Warn("an instance was offered and did not come", "name", o.Offer.VM, "err", o.Err)
				if o.State == commit.Revoked { // its start may have failed, which leaves nothing to start
					a.linger(ctx, done)
					return fmt.Errorf("%s did not come: %w", o.Offer.VM, o.Err)
				}
				continue
			}
			started()
			a.linger(ctx, done)
			return nil
		case err := <-served:
			served <- err
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// linger answers for as long as the source may ask.
func (a *Arrival) linger(ctx context.Context, done <-chan struct{}) {
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(lingers):
	}
}

// facts tells a source what this host has for its instance.
func (a *Arrival) facts(own *workload.Config) func(context.Context, json.RawMessage) (json.RawMessage, error) {
	return func(_ context.Context, raw json.RawMessage) (json.RawMessage, error) {
		var q question
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			return nil, err
		}
		if !q.Restart {
			return nil, errors.New("a container that is started afresh is waited for here (--mode restart), not a VM that goes on: leave --mode restart out there")
		}
		if len(q.Ports) > maxAsked {
			return nil, fmt.Errorf("%d ports; at most %d are answered for", len(q.Ports), maxAsked)
		}
		f := plan.Facts{Networks: []string{workload.NetUser}}
		if a.Root {
			f.Networks = append(f.Networks, workload.NetBridge)
		}
		var merr, derr, ierr error
		f.Memory, merr = spare.Memory()
		f.Disk, derr = spare.Disk(own.DataDir)
		f.Image, ierr = spare.Image(a.Images)
		if err := errors.Join(merr, derr, ierr); err != nil {
			return nil, err
		}
		if name := filepath.Base(q.Image); name == q.Image {
			if _, err := os.Stat(filepath.Join(a.Images, name)); err == nil {
				f.Images = append(f.Images, name)
			}
		}
		if own.Net.Publish == nil { // else the user has chosen ports for what comes
			f.Busy = spare.Busy(q.Ports)
		}
		return json.Marshal(f)
	}
}

// newcomer is an instance that was offered, before it is started.
type newcomer struct {
	a     *Arrival
	layer migrate.Volume
}

var (
	_ migrate.Destination       = (*newcomer)(nil)
	_ migrate.VolumeDestination = (*newcomer)(nil)
)

// prepare makes the instance that o describes. Nothing of it runs yet.
func (a *Arrival) prepare(ctx context.Context, own *workload.Config, o migrate.Offer) (_ migrate.Destination, err error) {
	d, err := workload.ParseDescription(o.Description)
	if err != nil {
		return nil, err
	}
	p, err := plan.Parse(o.Plan)
	if err != nil {
		return nil, err
	}
	if len(o.Regions) != 0 || len(o.Volumes) != 1 || o.Volumes[0].Name != layerVolume {
		return nil, fmt.Errorf("%w: %d regions of RAM and %d disks, where one layer is waited for", workload.ErrUnsupported, len(o.Regions), len(o.Volumes))
	}
	cfg, err := admit(own, d, p, a.Images)
	if err != nil {
		return nil, err
	}
	if err := a.Backend.Prepare(ctx, cfg); err != nil {
		return nil, err
	}
	disk, err := spare.Disk(own.DataDir)
	memory, merr := spare.Memory() // where it is unpacked
	err = errors.Join(err, merr)
	if free := min(disk, memory); err == nil && o.Volumes[0].Size > free {
		err = fmt.Errorf("its layer of %d MiB does not fit: %d are free", o.Volumes[0].Size>>20, free>>20)
	}
	if err == nil {
		err = os.MkdirAll(own.DataDir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	cfg.Rootfs.Layer = filepath.Join(own.DataDir, "layer.tar")
	f, err := os.OpenFile(cfg.Rootfs.Layer, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	n := &newcomer{a, migrate.Volume{Name: layerVolume, Size: o.Volumes[0].Size, File: f}}
	if err := errors.Join(f.Truncate(int64(n.layer.Size)), a.Instance.WriteConfig(cfg)); err != nil {
		n.drop()
		return nil, err
	}
	return n, nil
}

func (n *newcomer) drop() {
	_ = n.layer.File.Close()
	if err := os.Remove(n.layer.File.Name()); err != nil {
		n.a.Log.Warn("a layer that came to nothing is left", "err", err)
	}
}

// Regions implements migrate.Destination: there is no RAM.
func (n *newcomer) Regions() []memory.Region { return nil }

// Volumes implements migrate.VolumeDestination.
func (n *newcomer) Volumes() []migrate.Volume { return []migrate.Volume{n.layer} }

// LoadState implements migrate.Destination: there is none.
func (n *newcomer) LoadState(s []state.Section) error {
	if len(s) != 0 {
		return fmt.Errorf("%d sections of state for an instance that is started afresh", len(s))
	}
	return nil
}

// Resume implements migrate.Destination: the right to run the instance is ours.
func (n *newcomer) Resume(ctx context.Context) error {
	if _, err := launch.Start(ctx, n.a.Backend, n.a.Instance, n.a.Options); err != nil {
		return err
	}
	n.drop() // it has read it
	return nil
}
