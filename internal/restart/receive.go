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
	Backends map[string]workload.Backend // by name; those that this host has
	Images   string                      // folder of root file system images in the store
	Root     bool                        // whether we may make bridges
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
			return nil, errors.New("an instance that is started afresh is waited for here (--mode restart), not a VM that goes on: leave --mode restart out there")
		}
		if b := q.Backend; b != "" && a.Backends[b] == nil {
			return nil, fmt.Errorf("%w: this host runs no %.16ss", workload.ErrUnsupported, b)
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
	a       *Arrival
	backend workload.Backend
	volumes []migrate.Volume // the layer, and a VM's disks
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
	cfg, err := admit(own, d, p, a.Images)
	if err != nil {
		return nil, err
	}
	if err := fits(o, cfg.VM.Disks); err != nil {
		return nil, err
	}
	n := &newcomer{a: a}
	if cfg, n.backend, err = a.outfit(ctx, cfg, d.Config.VM.Cmdline); err != nil {
		return nil, err
	}
	if err := a.room(own.DataDir, o.Volumes); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(own.DataDir, 0o700); err != nil {
		return nil, err
	}
	cfg.Rootfs.Layer = filepath.Join(own.DataDir, "layer.tar")
	err = n.add(cfg.Rootfs.Layer, o.Volumes[0])
	for i, v := range o.Volumes[1:] {
		cfg.VM.Disks[i].Path = filepath.Join(own.DataDir, diskVolume(i))
		err = errors.Join(err, n.add(cfg.VM.Disks[i].Path, v))
	}
	if err == nil {
		err = a.Instance.WriteConfig(cfg)
	}
	if err != nil {
		n.drop()
		return nil, err
	}
	return n, nil
}

// fits refuses an offer that has not just what the configuration says: a layer, and its disks.
func fits(o migrate.Offer, disks []workload.Disk) error {
	if len(o.Regions) != 0 || len(o.Volumes) != 1+len(disks) || o.Volumes[0].Name != layerVolume {
		return fmt.Errorf("%w: %d regions of RAM and %d volumes, where one layer and %d disks are waited for", workload.ErrUnsupported, len(o.Regions), len(o.Volumes), len(disks))
	}
	for i, v := range o.Volumes[1:] {
		if v.Name != diskVolume(i) {
			return fmt.Errorf("%w: volume %q, where %s is waited for", workload.ErrUnsupported, v.Name, diskVolume(i))
		}
	}
	return nil
}

// outfit gives an instance what its backend needs here: of a VM a kernel, by the name that it
// had if there is one of that name. cmdline is what the source's guest was told.
func (a *Arrival) outfit(ctx context.Context, cfg *workload.Config, cmdline string) (*workload.Config, workload.Backend, error) {
	b := a.Backends[cfg.Backend]
	if b == nil {
		return nil, nil, fmt.Errorf("%w: this host runs no %ss", workload.ErrUnsupported, cfg.Backend)
	}
	n := *cfg
	err := b.Prepare(ctx, &n)
	if err != nil && cfg.VM.KernelRef != "" {
		n = *cfg
		n.VM.KernelRef = ""
		err = b.Prepare(ctx, &n)
	}
	if err != nil {
		return nil, nil, err
	}
	if n.Backend == "vm" {
		n.VM.Cmdline += added(cmdline, n.VM.Cmdline)
	}
	return &n, b, nil
}

// room refuses what there is no place for. The layer is unpacked in memory.
func (a *Arrival) room(dir string, coming []migrate.Volume) error {
	disk, err := spare.Disk(dir)
	memory, merr := spare.Memory()
	if err := errors.Join(err, merr); err != nil {
		return err
	}
	if size, free := coming[0].Size, min(disk, memory); size > free {
		return fmt.Errorf("its layer of %d MiB does not fit: %d are free", size>>20, free>>20)
	}
	for _, v := range coming {
		if v.Size > disk {
			return fmt.Errorf("its disks do not fit: %s has %d MiB, %d are left", v.Name, v.Size>>20, disk>>20)
		}
		disk -= v.Size
	}
	return nil
}

// add makes the file that a volume comes to.
func (n *newcomer) add(path string, v migrate.Volume) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n.volumes = append(n.volumes, migrate.Volume{Name: v.Name, Size: v.Size, File: f})
	return f.Truncate(int64(v.Size))
}

func (n *newcomer) drop() {
	for _, v := range n.volumes {
		n.discard(v)
	}
}

func (n *newcomer) discard(v migrate.Volume) {
	_ = v.File.Close()
	if err := os.Remove(v.File.Name()); err != nil {
		n.a.Log.Warn("what has come is left, and came to nothing", "volume", v.Name, "err", err)
	}
}

// Regions implements migrate.Destination: there is no RAM.
func (n *newcomer) Regions() []memory.Region { return nil }

// Volumes implements migrate.VolumeDestination.
func (n *newcomer) Volumes() []migrate.Volume { return n.volumes }

// LoadState implements migrate.Destination: there is none.
func (n *newcomer) LoadState(s []state.Section) error {
	if len(s) != 0 {
		return fmt.Errorf("%d sections of state for an instance that is started afresh", len(s))
	}
	return nil
}

// Resume implements migrate.Destination: the right to run the instance is ours.
func (n *newcomer) Resume(ctx context.Context) error {
	if _, err := launch.Start(ctx, n.backend, n.a.Instance, n.a.Options); err != nil {
		return err
	}
	n.discard(n.volumes[0]) // it has read it
	for _, v := range n.volumes[1:] {
		_ = v.File.Close()
	}
	return nil
}
