package microvm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
)

var (
	_ migrate.VolumeSource      = outgoing{}
	_ migrate.VolumeDestination = (*arrival)(nil)
)

// outgoing is a machine that is sent with its disks.
type outgoing struct{ *machine.Machine }

// Volumes implements migrate.VolumeSource.
func (o outgoing) Volumes() []migrate.Volume { return volumes(o.Machine) }

// FetchDirtyVolume implements migrate.VolumeSource.
func (o outgoing) FetchDirtyVolume(i int, bitmap []uint64) error {
	return o.FetchDirtyDisk(i, bitmap)
}

// Volumes implements migrate.VolumeDestination.
func (a *arrival) Volumes() []migrate.Volume { return volumes(a.Machine) }

func volumes(m *machine.Machine) (v []migrate.Volume) {
	for _, d := range m.Disks() {
		v = append(v, migrate.Volume{Name: d.ID, Size: d.Size, File: d.File})
	}
	return v
}

// takeDisks makes empty images for the disks that come along, in the instance's
// data directory, and points the configuration at them. What an offer that came
// to nothing has left there goes.
func takeDisks(cfg *workload.Config, dir string, coming []migrate.Volume) error {
	for i, d := range cfg.VM.Disks {
		if d.ReadOnly {
			continue
		}
		if len(coming) == 0 || coming[0].Name != serialOf(i, d) {
			return fmt.Errorf("the source does not send disk %s along", serialOf(i, d))
		}
		if dir == "" {
			return errors.New("this instance has no place for disks")
		}
		path := filepath.Join(dir, fmt.Sprintf("disk%d", i))
		if err := emptyImage(path, coming[0].Size); err != nil {
			return fmt.Errorf("image for disk %s: %w", coming[0].Name, err)
		}
		cfg.VM.Disks[i].Path, coming = path, coming[1:]
	}
	return nil
}

// emptyImage makes a file that reads as zeroes.
func emptyImage(path string, size uint64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(int64(size)), f.Sync(), f.Close())
}
