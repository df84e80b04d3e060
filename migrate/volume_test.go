package migrate_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/wire"
)

// diskMachine is a machine with disks, which its guest writes while it runs:
// here, whenever somebody asks for the dirty log.
type diskMachine struct {
	*machine
	volumes []migrate.Volume
	dirty   []*memory.Bitmap
	rng     *rand.Rand
}

func newDisks(t *testing.T, m *machine, sizes ...uint64) *diskMachine {
	t.Helper()
	d := &diskMachine{machine: m, rng: rand.New(rand.NewPCG(5, 6))}
	for i, n := range sizes {
		f, err := os.Create(filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		if err := f.Truncate(int64(n)); err != nil {
			t.Fatal(err)
		}
		d.volumes = append(d.volumes, migrate.Volume{Name: fmt.Sprintf("disk%d", i), Size: n, File: f})
		d.dirty = append(d.dirty, memory.NewBitmap((n+page-1)/page))
	}
	return d
}

func (d *diskMachine) Volumes() []migrate.Volume { return d.volumes }

// write writes a sector somewhere, zeroes at times, and marks it.
func (d *diskMachine) write(t *testing.T) {
	for i, v := range d.volumes {
		b := make([]byte, 512)
		if d.rng.IntN(3) > 0 {
			b[d.rng.IntN(512)] = 7
		}
		sector := d.rng.Uint64N(v.Size / 512)
		if d.rng.IntN(8) == 0 {
			sector = v.Size/512 - 1
		}
		if _, err := v.File.WriteAt(b, int64(sector*512)); err != nil {
			t.Error(err)
		}
		d.dirty[i].Set(sector*512/page, 1)
	}
}

func (d *diskMachine) FetchDirtyVolume(i int, bitmap []uint64) error {
	into := memory.NewBitmap(d.dirty[i].Pages())
	d.dirty[i].Harvest(into)
	clear(bitmap)
	for from, n := range into.All() {
		for p := from; p < from+n; p++ {
			bitmap[p/64] |= 1 << (p % 64)
		}
	}
	return nil
}

func TestDisksGoAlong(t *testing.T) {
	const odd = 1<<20 + 512 // its last page is short
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprintf("link broken %v", broken), func(t *testing.T) {
			var dst *diskMachine
			r := newRig(t, func(r *rig) {
				quick(r)
				r.send.Streams = 3
				r.receive.Prepare = func(_ context.Context, o migrate.Offer) (migrate.Destination, error) {
					dst = newDisks(t, r.dst, o.Volumes[0].Size, o.Volumes[1].Size)
					return dst, nil
				}
			})
			src := newDisks(t, r.src, 5<<20, odd)
			for range 300 {
				src.write(t)
			}
			f := delay
			if broken {
				f = cut
			}
			p := r.through(t, wire.Pages, 4, f)
			p.hook = func() { // while the first round is on its way
				for range 50 {
					src.write(t)
				}
			}
			rep, err := migrate.Send(t.Context(), src, r.dial, r.journal, r.send)
			if err != nil {
				t.Fatal(err)
			}
			r.judge(t, err)
			if rep.Disks != 5<<20+odd || broken != (rep.Reconnects == 1) {
				t.Errorf("%d bytes of disks, %d reconnects", rep.Disks, rep.Reconnects)
			}
			for i, v := range src.volumes {
				want, got := make([]byte, v.Size), make([]byte, v.Size)
				_, _ = v.File.ReadAt(want, 0)
				_, _ = dst.volumes[i].File.ReadAt(got, 0)
				if !bytes.Equal(want, got) {
					t.Errorf("disk %d differs", i)
				}
				if fi, err := dst.volumes[i].File.Stat(); err != nil || uint64(fi.Size()) != v.Size {
					t.Errorf("disk %d has %d bytes, want %d", i, fi.Size(), v.Size)
				}
			}
		})
	}
}

func TestDisksMustFit(t *testing.T) {
	for name, tc := range map[string]struct {
		there func(t *testing.T, r *rig) migrate.Destination
		want  string
	}{
		"no disks there":   {func(t *testing.T, r *rig) migrate.Destination { return r.dst }, "takes 0 disks"},
		"another size":     {func(t *testing.T, r *rig) migrate.Destination { return newDisks(t, r.dst, 2<<20) }, "disk 0 is"},
		"more disks there": {func(t *testing.T, r *rig) migrate.Destination { return newDisks(t, r.dst, 1<<20, 1<<20) }, "takes 2 disks"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(r *rig) {
				quick(r)
				r.receive.Drop = func(migrate.Destination) { r.dst.drop() }
				r.receive.Prepare = func(context.Context, migrate.Offer) (migrate.Destination, error) { return tc.there(t, r), nil }
			})
			_, err := migrate.Send(t.Context(), newDisks(t, r.src, 1<<20), r.dial, r.journal, r.send)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			r.judge(t, err)
		})
	}
}
