package bus_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/hvctl/hvctl/internal/bus"
)

// ram is a handler that stores what is written to it.
type ram []byte

func (r ram) ReadAt(off uint64, p []byte)  { copy(p, r[off:]) }
func (r ram) WriteAt(off uint64, p []byte) { copy(r[off:], p) }

func TestAccessReachesOnlyItsRange(t *testing.T) {
	var b bus.Bus
	for _, base := range []uint64{0x100, 0x300} {
		if err := b.Add(bus.Range{Base: base, Size: 0x10, Name: "r", Handler: make(ram, 0x10)}); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(0x304, []byte{1, 2, 3, 4})
	got := make([]byte, 4)
	for _, c := range []struct {
		name  string
		addr  uint64
		found bool
		want  []byte
	}{
		{"written", 0x304, true, []byte{1, 2, 3, 4}},
		{"other range untouched", 0x104, true, []byte{0, 0, 0, 0}},
		{"below", 0xfc, false, []byte{255, 255, 255, 255}},
		{"between", 0x110, false, []byte{255, 255, 255, 255}},
		{"straddles the end", 0x30e, false, []byte{255, 255, 255, 255}},
		{"top of the space", ^uint64(0), false, []byte{255, 255, 255, 255}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if found := b.Read(c.addr, got); found != c.found || !bytes.Equal(got, c.want) {
				t.Errorf("Read(%#x) = %v, %v; want %v, %v", c.addr, got, found, c.want, c.found)
			}
		})
	}
}

func TestOverlapIsRefusedAndChangesNothing(t *testing.T) {
	var b bus.Bus
	must(t, b.Add(bus.Range{Base: 0x1000, Size: 0x1000, Handler: make(ram, 0x1000)}))
	must(t, b.Add(bus.Range{Base: 0x4000, Size: 0x1000, Handler: make(ram, 0x1000)}))
	for _, r := range []bus.Range{{Base: 0xfff, Size: 2}, {Base: 0x1fff, Size: 1}, {Base: 0x800, Size: 0x10000}} {
		if err := b.Add(r); !errors.Is(err, bus.ErrOverlap) {
			t.Errorf("Add(%#x+%#x) = %v, want ErrOverlap", r.Base, r.Size, err)
		}
	}
	for _, r := range []bus.Range{{Base: 5}, {Base: ^uint64(0), Size: 2}} {
		if err := b.Add(r); err == nil {
			t.Errorf("Add(%#x+%#x) succeeded", r.Base, r.Size)
		}
	}
	if err := b.Move(0x1000, 0x3800); !errors.Is(err, bus.ErrOverlap) {
		t.Errorf("Move onto another range = %v, want ErrOverlap", err)
	}
	if got := b.Ranges(); len(got) != 2 || got[0].Base != 0x1000 || got[1].Base != 0x4000 {
		t.Errorf("ranges after refused changes: %v", got)
	}
}

func TestMoveIsAtomicForReaders(t *testing.T) {
	var b bus.Bus
	must(t, b.Add(bus.Range{Base: 0x1000, Size: 8, Handler: make(ram, 8)}))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for from, to := uint64(0x1000), uint64(0x2000); ; from, to = to, from {
			select {
			case <-stop:
				return
			default:
				if err := b.Move(from, to); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 10000 {
		if n := len(b.Ranges()); n != 1 {
			t.Fatalf("a reader saw %d ranges", n)
		}
	}
	close(stop)
	wg.Wait()
	if !b.Remove(b.Ranges()[0].Base) || b.Remove(0x1000) {
		t.Error("Remove reported the wrong thing")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
