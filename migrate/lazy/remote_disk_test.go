package lazy

import (
	"bytes"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/migrate"
)

const diskPages = 40

func newDisk(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(diskPages * page); err != nil {
		t.Fatal(err)
	}
	return f
}

func volumeOf(f *os.File) []migrate.Volume {
	return []migrate.Volume{{Name: "disk0", Size: diskPages * page, File: f}}
}

// diskLeaver has a disk, which changes with every look at its log.
type diskLeaver struct {
	*leaver
	f     *os.File
	looks atomic.Int32
}

func (m *diskLeaver) Volumes() []migrate.Volume { return volumeOf(m.f) }

func (m *diskLeaver) FetchDirtyVolume(_ int, bitmap []uint64) error {
	clear(bitmap)
	n := m.looks.Add(1)
	if n > 3 { // paused for good
		return nil
	}
	bitmap[0] = 1 << n
	_, err := m.f.WriteAt(bytes.Repeat([]byte{byte(n)}, page), int64(n)*page)
	return err
}

// diskComer has it complete before it loads its state: disks do not follow.
type diskComer struct {
	*comer
	f, want *os.File
}

func (m *diskComer) Volumes() []migrate.Volume { return volumeOf(m.f) }

func (m *diskComer) LoadState(s []state.Section) error {
	got, err := os.ReadFile(m.f.Name())
	want, werr := os.ReadFile(m.want.Name())
	if err != nil || werr != nil || !bytes.Equal(got, want) {
		m.t.Errorf("the disk is not the source's: %v, %v", err, werr)
	}
	return m.comer.LoadState(s)
}

func TestDisksAreThereBeforeTheGuest(t *testing.T) {
	m := newLater(t, func(m *later) {
		from := &diskLeaver{leaver: m.src, f: newDisk(t)}
		if _, err := from.f.WriteAt(bytes.Repeat([]byte{9}, 20*page), 10*page); err != nil {
			t.Fatal(err)
		}
		m.options.Downtime = time.Nanosecond // or all of it fits
		m.from, m.to = from, &diskComer{m.dst, newDisk(t), from.f}
	})
	m.send()
	m.finish()
	if p := m.report.PostCopy; len(m.report.Rounds) != 1 || p.Missing == 0 || m.report.Final.Pages == 0 {
		t.Errorf("%d rounds, %+v, %+v", len(m.report.Rounds), m.report.Final, p)
	}
}
