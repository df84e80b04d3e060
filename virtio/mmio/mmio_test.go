package mmio_test

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio/mmio"
	"github.com/hvctl/hvctl/virtio/rng"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

const base = 0xd0000000

type line struct{ n atomic.Uint64 }

func (l *line) Signal() error { l.n.Add(1); return nil }

type rig struct {
	t     testing.TB
	mem   *memory.Guest
	bells virtiotest.Doorbells
	line  line
	dev   *mmio.Transport
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t}
	var err error
	if r.mem, err = memory.New(memory.Options{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	r.dev, err = mmio.New(mmio.Options{Device: rng.New(), Mem: r.mem, Doorbells: &r.bells, Line: &r.line, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.dev.Close(), r.mem.Close()); err != nil {
			t.Error(err)
		}
		if n := r.bells.Len(); n != 0 {
			t.Errorf("%d doorbells left", n)
		}
	})
	return r
}

func (r *rig) get(off uint64) uint32 {
	b := []byte{0xff, 0xff, 0xff, 0xff}
	r.dev.ReadAt(off, b)
	return binary.LittleEndian.Uint32(b)
}

func (r *rig) set(off uint64, v uint32) {
	r.dev.WriteAt(off, binary.LittleEndian.AppendUint32(nil, v))
}

func (r *rig) live() {
	r.set(0x70, 1)
	r.set(0x70, 3)
	r.set(0x24, 1)
	r.set(0x20, 1)
	r.set(0x70, 0xb)
	r.set(0x38, 8)
	r.set(0x80, 0x1000)
	r.set(0x90, 0x2000)
	r.set(0xa0, 0x3000)
	r.set(0x44, 1)
	r.set(0x70, 0xf)
	if got := r.get(0x70); got != 0xf {
		r.t.Fatalf("status %#x", got)
	}
}

func TestFixedRegisters(t *testing.T) {
	r := newRig(t)
	for off, want := range map[uint64]uint32{
		0x00: 0x74726976, 0x04: 2, 0x08: 4, 0x34: 64, 0x44: 0, 0x60: 0, 0x70: 0,
		0xb0: 0xffffffff, 0xb4: 0xffffffff, // no shared memory
		0x50: 0, 0x1c: 0, 0xf8: 0, // write-only and reserved
	} {
		if got := r.get(off); got != want {
			t.Errorf("register %#x reads %#x, want %#x", off, got, want)
		}
	}
}

func TestDoorbellsLiveFromDriverOKToReset(t *testing.T) {
	r := newRig(t)
	if r.bells.Write(base+0x50, 4, 0) {
		t.Error("doorbell before DRIVER_OK")
	}
	r.live()
	if !r.bells.Write(base+0x50, 4, 0) || r.bells.Write(base+0x50, 4, 1) {
		t.Error("doorbell of queue 0 missing, or one of a queue that is not there")
	}
	r.set(0x70, 0)
	if r.bells.Len() != 0 {
		t.Error("doorbell after reset")
	}
}

func TestQueueNotifyThatExitsStillKicks(t *testing.T) {
	r := newRig(t)
	r.bells.Refuse = func(uint64) error { return errors.New("none left") }
	r.live()
	if !virtiotest.Poll(func() bool { return r.dev.Core().Runs(0) == 1 }) {
		t.Fatal("worker did not start")
	}
	r.set(0x50, 7)
	r.set(0x50, 0xffffffff)
	r.set(0x50, 0)
	if !virtiotest.Poll(func() bool { return r.dev.Core().Runs(0) == 2 }) {
		t.Error("worker did not run")
	}
}

func TestInterruptStatusIsAcknowledgedBitByBit(t *testing.T) {
	r := newRig(t)
	r.live()
	r.set(0x70, 1) // an illegal step: NEEDS_RESET and a configuration interrupt
	if got := r.get(0x60); got != 2 || r.line.n.Load() != 1 {
		t.Fatalf("causes %#x after %d edges", got, r.line.n.Load())
	}
	r.set(0x64, 1)
	if got := r.get(0x60); got != 2 {
		t.Errorf("causes %#x after acknowledging another one", got)
	}
	r.set(0x64, 2)
	if got := r.get(0x60); got != 0 {
		t.Errorf("causes %#x after acknowledging", got)
	}
}

func TestQueueReadyCanBeTakenBack(t *testing.T) {
	r := newRig(t)
	r.live()
	r.set(0x44, 0)
	if got := r.get(0x44); got != 0 {
		t.Errorf("QueueReady %d", got)
	}
}

func TestOddAccessesAreHarmless(t *testing.T) {
	r := newRig(t)
	r.live()
	for off := range uint64(mmio.Size) {
		for _, n := range []uint64{1, 2, 4, 8} {
			if off+n > mmio.Size || n == 4 && off%4 == 0 && off < 0x100 {
				continue
			}
			b := make([]byte, n)
			for i := range b {
				b[i] = 0xff
			}
			r.dev.ReadAt(off, b)
			for _, v := range b {
				if v != 0xff {
					t.Errorf("%d bytes at %#x read %x", n, off, b)
					break
				}
			}
			r.dev.WriteAt(off, make([]byte, n))
		}
	}
	if got := r.get(0x70); got != 0xf {
		t.Errorf("status %#x", got)
	}
}

func FuzzRegisters(f *testing.F) {
	f.Add([]byte{0x70, 0, 1, 0, 0, 0, 0x70, 0, 3, 0, 0, 0})
	f.Add([]byte{0x30, 0, 9, 0, 0, 0, 0x44, 0, 1, 0, 0, 0, 0x50, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := newRig(t)
		if len(script)%2 == 1 {
			r.live()
		}
		for ; len(script) >= 6; script = script[6:] {
			w := binary.LittleEndian.Uint16(script)
			off, n := uint64(w&0x1ff), uint64(1)<<(w>>9&3)
			if off+n > mmio.Size {
				continue
			}
			b := make([]byte, 8)
			copy(b, script[2:6])
			if w&0x8000 != 0 {
				r.dev.ReadAt(off, b[:n])
			} else {
				r.dev.WriteAt(off, b[:n])
			}
		}
		r.set(0x70, 0)
		if got := r.get(0x70); got != 0 {
			t.Fatalf("status after reset %#x", got)
		}
		r.set(0x30, 0)
		r.live()
	})
}
