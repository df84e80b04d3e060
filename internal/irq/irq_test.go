package irq_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/irq"
	"github.com/hvctl/hvctl/kvm"
)

type recorder []string

func (r *recorder) SetIRQLine(gsi uint32, level bool) error {
	*r = append(*r, fmt.Sprint(gsi, level))
	return nil
}

func (r *recorder) SignalMSI(addr uint64, data uint32) (bool, error) {
	if addr == 0 {
		return false, unix.EINVAL
	}
	*r = append(*r, fmt.Sprintf("%#x=%#x", addr, data))
	return true, nil
}

func (*recorder) SetGSIRouting([]kvm.IRQRoute) error { return nil }
func (*recorder) AssignIRQFD(int, uint32) error      { return nil }
func (*recorder) DeassignIRQFD(int, uint32) error    { return nil }

func TestLineIsAnEdge(t *testing.T) {
	var r recorder
	if err := irq.New(&r).Pin(4).Signal(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"4 true", "4 false"}; !slices.Equal(r, want) {
		t.Errorf("got %v, want %v", r, want)
	}
}

// pin is a line that notices a rise while it is high.
type pin struct {
	recorder
	high, lost atomic.Int32
}

func (p *pin) SetIRQLine(_ uint32, level bool) error {
	if level && !p.high.CompareAndSwap(0, 1) {
		p.lost.Add(1)
	}
	if !level {
		p.high.Store(0)
	}
	runtime.Gosched()
	return nil
}

func TestConcurrentSignalsAreAllEdges(t *testing.T) {
	p := &pin{}
	l := irq.New(p).Pin(7)
	var wg sync.WaitGroup
	for range 4 { // the queues of one device
		wg.Go(func() {
			for range 1000 {
				if err := l.Signal(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := p.lost.Load(); n > 0 {
		t.Errorf("%d of 4000 signals were no edge", n)
	}
}

func TestPinsAreDistinctAndRunOut(t *testing.T) {
	c := irq.New(&recorder{})
	seen := map[uint32]bool{}
	for {
		l, err := c.Alloc()
		if errors.Is(err, irq.ErrNoPin) {
			break
		}
		if err != nil || seen[l.GSI()] || l.GSI() < irq.FirstFree || l.GSI() >= irq.Pins {
			t.Fatalf("pin %v, %v after %v", l, err, seen)
		}
		seen[l.GSI()] = true
	}
	if len(seen) != irq.Pins-irq.FirstFree {
		t.Errorf("%d pins handed out", len(seen))
	}
}

func TestMSISignalsOnlyWhileRouted(t *testing.T) {
	var r recorder
	m := irq.New(&r).NewMSI()
	for _, step := range []func() error{
		m.Signal,
		func() error { return m.Route(0xfee00000, 0x31) }, m.Signal,
		m.Mask, m.Signal,
		func() error { return m.Route(0xfee01000, 0x32) }, m.Signal,
		func() error { return m.Route(0, 0) }, m.Signal, // nonsense from the guest
		m.Close, m.Signal,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"0xfee00000=0x31", "0xfee01000=0x32"}; !slices.Equal(r, want) {
		t.Errorf("got %v, want %v", r, want)
	}
}
