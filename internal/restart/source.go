package restart

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
)

// source is an instance that stands still already, as package migrate sees machines.
type source struct {
	h    *launch.Handle
	hold *commit.Hold
	// volumes are the packed layer, and a VM's disks.
	volumes []migrate.Volume
}

var (
	_ migrate.Source       = (*source)(nil)
	_ migrate.VolumeSource = (*source)(nil)
)

// Regions implements migrate.Source: there is no RAM.
func (s *source) Regions() []memory.Region { return nil }

// Pause implements migrate.Source: it makes sure that it stands still.
func (s *source) Pause(context.Context) error {
	st, err := s.h.Instance.State()
	if err == nil && st.Status != workload.Paused {
		err = fmt.Errorf("%w: it is %s by now", workload.ErrNotRunning, st.Status)
	}
	return err
}

// Resume implements migrate.Source.
func (s *source) Resume(ctx context.Context) error {
	s.hold.Release()
	return s.h.Client.Resume(ctx)
}

// StartDirtyLog implements migrate.Source: nothing changes.
func (s *source) StartDirtyLog() error { return nil }

// StopDirtyLog implements migrate.Source.
func (s *source) StopDirtyLog() error { return nil }

// FetchDirty implements migrate.Source.
func (s *source) FetchDirty(int, []uint64) error { return nil }

// FetchDirtyVolume implements migrate.VolumeSource.
func (s *source) FetchDirtyVolume(_ int, bitmap []uint64) error {
	clear(bitmap)
	return nil
}

// SaveState implements migrate.Source: the configuration is in the offer.
func (s *source) SaveState() ([]state.Section, error) { return nil, nil }

// Volumes implements migrate.VolumeSource.
func (s *source) Volumes() []migrate.Volume { return s.volumes }

// addDisks opens the disks of a VM that stands still. Its owner has them open, too, and has
// nothing of them under way.
func (s *source) addDisks(disks []workload.Disk) error {
	for i, d := range disks {
		f, err := os.Open(d.Path)
		if err != nil {
			return err
		}
		size, err := f.Seek(0, io.SeekEnd)
		s.volumes = append(s.volumes, migrate.Volume{Name: diskVolume(i), Size: uint64(size), File: f})
		if err != nil {
			return err
		}
	}
	return nil
}

// close closes what is sent.
func (s *source) close() {
	for _, v := range s.volumes {
		_ = v.File.Close()
	}
}
