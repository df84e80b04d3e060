package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

var _ workload.Snapshotter = (*VM)(nil)

// pauseTimeout is how long the devices may take to stop for a snapshot. Host I/O
// that takes longer is left alone, and the snapshot fails.
const pauseTimeout = 10 * time.Second

// shot is a snapshot that is being made.
type shot struct {
	v      *VM
	g      *guest
	dir    string
	bases  []*os.File
	report workload.SnapshotReport
	began  time.Time
	at     time.Time // of the pause
	paused bool      // by us, and not resumed yet
}

// Snapshot implements workload.Snapshotter. Memory and disks are those of one
// moment, so the guest's file systems need not be frozen. Most of the memory is
// copied while the guest runs; what it changes meanwhile, while it stands still.
func (v *VM) Snapshot(ctx context.Context, dir string, bases []*os.File) (workload.SnapshotReport, error) {
	s := &shot{v: v, dir: dir, bases: bases, began: time.Now()}
	defer func() {
		for _, f := range s.bases { // that it did not come to
			_ = f.Close()
		}
	}()
	g, err := v.withAgent() // it would be missed after a restore
	if err != nil {
		return workload.SnapshotReport{}, err
	}
	if v.suspended.Load() {
		return workload.SnapshotReport{}, fmt.Errorf("%w: its workload is stopped to be moved, and would be in what is restored", workload.ErrUnsupported)
	}
	s.g = g
	err = s.take(ctx)
	if s.paused {
		err = errors.Join(err, s.resume(ctx))
	}
	s.report.TotalNs = time.Since(s.began).Nanoseconds()
	return s.report, err
}

func (s *shot) take(ctx context.Context) error {
	if err := overlaid(s.v.cfg.VM.Disks); err != nil {
		return err
	}
	d, err := s.v.describe()
	if err != nil {
		return err
	}
	description, err := d.Describe()
	if err != nil {
		return err
	}
	if err := s.v.settle(ctx); err != nil {
		return err
	}
	m := s.g.machine
	c := snapshot.Content{Regions: m.Regions(), MemoryFD: m.MemoryFD(), Description: description}
	if err := m.CanSave(); err != nil {
		return notRunning(err)
	}
	err = m.StartDirtyLog()
	switch {
	case err == nil:
		defer func() { _ = m.StopDirtyLog() }() // fails only with the machine
		var failed error
		c.Live = &snapshot.Live{
			Stop: func() (dirty [][]uint64, sections []state.Section, err error) {
				if sections, err = s.stop(ctx); err == nil {
					dirty, err = dirtyPages(m)
				}
				return dirty, sections, err
			},
			Copied: func() { failed = s.resume(ctx) },
		}
		defer func() {
			if failed != nil {
				s.v.log.Error("the VM did not go on after a snapshot", "err", failed)
			}
		}()
	case errors.Is(err, machine.ErrDirtyLog): // then it stands still all the while
		if c.Sections, err = s.stop(ctx); err != nil {
			return err
		}
	default:
		return notRunning(err)
	}
	if len(s.bases) > 0 { // the log is on, or it stands still
		if err := s.differ(ctx, &c); err != nil {
			return err
		}
	}
	w, err := snapshot.Write(ctx, filepath.Join(s.dir, workload.SnapshotFile), c, snapshot.Options{})
	s.report.MemoryBytes = w.StoredPages * 4096
	return err
}

// differ makes c what differs from the bases.
func (s *shot) differ(ctx context.Context, c *snapshot.Content) (err error) {
	below, err := snapshot.OpenFiles(s.bases)
	s.bases = nil
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	id := below.Top().ID()
	c.Base = &id
	c.Dirty, err = snapshot.Differ(ctx, below, c.Regions, c.MemoryFD, snapshot.Options{})
	return err
}

// openChain opens a snapshot and those below it; that they belong together is
// checked.
func openChain(files []string) (*snapshot.Chain, error) {
	rest := files[1:]
	return snapshot.OpenChain(files[0], func(id snapshot.Ref) (string, error) {
		if len(rest) == 0 {
			return "", fmt.Errorf("no file is given for %v", id)
		}
		next := rest[0]
		rest = rest[1:]
		return next, nil
	})
}

// stop pauses the machine, unless it is, and saves what is not memory.
func (s *shot) stop(ctx context.Context) ([]state.Section, error) {
	m := s.g.machine
	s.at = time.Now()
	if !m.Paused() {
		pctx, cancel := context.WithTimeout(ctx, pauseTimeout)
		err := m.Pause(pctx)
		cancel()
		if err != nil {
			return nil, notRunning(err)
		}
		s.paused = true
	}
	sections, err := m.SaveState()
	if err != nil {
		return nil, notRunning(err)
	}
	for _, sec := range sections {
		s.report.StateBytes += uint64(len(sec.Payload))
	}
	s.report.DiskBytes, err = copyDisks(ctx, m, s.v.cfg.VM.Disks, s.dir)
	return sections, err
}

// resume lets a machine go on that stop has paused.
func (s *shot) resume(ctx context.Context) error {
	if !s.paused {
		return nil
	}
	s.paused = false
	err := s.v.Resume(context.WithoutCancel(ctx))
	s.report.PausedNs = time.Since(s.at).Nanoseconds()
	return err
}

// dirtyPages returns the log of every region.
func dirtyPages(m *machine.Machine) (all [][]uint64, err error) {
	for i, r := range m.Regions() {
		words := make([]uint64, migrate.DirtyWords(r))
		if err := m.FetchDirty(i, words); err != nil {
			return nil, err
		}
		all = append(all, words)
	}
	return all, nil
}

// describe says what a restored copy needs beside the machine's state.
func (v *VM) describe() (workload.Description, error) {
	cfg := *v.cfg
	cfg.VM.Restore, cfg.VM.Receive, cfg.Rootfs.Layer = nil, nil, ""
	d := workload.Description{Created: time.Now().UTC(), Config: &cfg}
	if v.net != nil {
		d.MAC = v.net.MAC.String()
		if v.net.IP.IsValid() {
			d.IP = v.net.IP.Addr().String()
		}
	}
	for i, disk := range cfg.VM.Disks {
		d.Disks = append(d.Disks, workload.SnapshotDisk{Name: diskCopy(i, disk)})
	}
	var err error
	d.Rootfs, err = workload.MarkOpen(v.image)
	return d, err
}
