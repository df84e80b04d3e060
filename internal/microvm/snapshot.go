package microvm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

var _ workload.Snapshotter = (*VM)(nil)

// pauseTimeout is how long the devices may take to stop for a snapshot. Host I/O
// that takes longer is left alone, and the snapshot fails.
const pauseTimeout = 10 * time.Second

// Snapshot implements workload.Snapshotter. Memory and disks are those of one
// moment, so the guest's file systems need not be frozen.
func (v *VM) Snapshot(ctx context.Context, dir string) (r workload.SnapshotReport, err error) {
	g, err := v.running()
	if err != nil {
		return r, err
	}
	if g.session == nil {
		return r, fmt.Errorf("%w: the guest was booted without hvctl's agent, which would be missed after a restore", workload.ErrUnsupported)
	}
	began := time.Now()
	d, err := v.describe() // reads the image's head: not while the guest waits
	if err != nil {
		return r, err
	}
	paused := g.machine.Paused()
	at := time.Now()
	pctx, cancel := context.WithTimeout(ctx, pauseTimeout)
	err = g.machine.Pause(pctx)
	cancel()
	if err != nil {
		return r, notRunning(err)
	}
	err = v.write(ctx, g, dir, d, &r)
	if !paused {
		err = errors.Join(err, v.Resume(context.WithoutCancel(ctx)))
		r.PausedNs = time.Since(at).Nanoseconds()
	}
	r.TotalNs = time.Since(began).Nanoseconds()
	return r, err
}

// write fills dir while the machine is paused.
func (v *VM) write(ctx context.Context, g *guest, dir string, d workload.Description, r *workload.SnapshotReport) error {
	sections, err := g.machine.SaveState()
	if err != nil {
		return notRunning(err)
	}
	if d.Disks, r.DiskBytes, err = copyDisks(ctx, v.cfg.VM.Disks, dir); err != nil {
		return err
	}
	description, err := d.Describe()
	if err != nil {
		return err
	}
	w, err := snapshot.Write(ctx, filepath.Join(dir, workload.SnapshotFile), snapshot.Content{
		Regions: g.machine.Regions(), MemoryFD: g.machine.MemoryFD(),
		Sections: sections, Description: description,
	}, snapshot.Options{})
	r.MemoryBytes, r.StateBytes = w.StoredPages*4096, stateBytes(sections)
	return err
}

func stateBytes(sections []state.Section) (n uint64) {
	for _, s := range sections {
		n += uint64(len(s.Payload))
	}
	return n
}

// describe says what a restored copy needs beside the machine's state.
func (v *VM) describe() (workload.Description, error) {
	cfg := *v.cfg
	cfg.VM.Restore = nil
	cfg.VM.Receive = nil
	d := workload.Description{Created: time.Now().UTC(), Config: &cfg}
	if v.net != nil {
		d.IP, d.MAC = v.net.IP.Addr().String(), v.net.MAC.String()
	}
	var err error
	d.Rootfs, err = workload.MarkFile(cfg.Rootfs.ImagePath)
	return d, err
}
