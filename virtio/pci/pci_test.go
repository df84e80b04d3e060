package pci_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/hvctl/hvctl/internal/bus"
	pcibus "github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/pci"
	"github.com/hvctl/hvctl/virtio/rng"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

const (
	window = 0x4000000000
	ecam   = 0xe0000000
	// Places in the BAR, as declared in the capabilities.
	isr    = window + 0x1000
	notify = window + 0x3000
	table  = window + 0x4000
	pba    = window + 0x5000
)

// rig is an entropy device behind a PCI function, without a driver.
type rig struct {
	t     testing.TB
	mmio  bus.Bus
	bells virtiotest.Doorbells
	msi   virtiotest.MSIs
	dev   *pci.Transport
	msix  uint64 // ECAM address of the capability
	pcap  uint64 // of the access capability
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return rigOf(t, rng.New())
}

func rigOf(t testing.TB, dev virtio.Device) *rig {
	t.Helper()
	r := &rig{t: t}
	mem, err := memory.New(memory.Options{Size: 1 << 20})
	must(t, err)
	r.dev, err = pci.New(pci.Options{Device: dev, Name: "rng0", Mem: mem, Doorbells: &r.bells, MSI: &r.msi})
	must(t, err)
	root := pcibus.New(pcibus.Options{MMIO: &r.mmio, Window64: memory.Span{GPA: window, Size: 1 << 30}})
	slot, err := root.Add(r.dev.Function())
	must(t, err)
	must(t, r.mmio.Add(bus.Range{Base: ecam, Size: pcibus.ECAMSize, Handler: root.ECAM()}))
	t.Cleanup(func() {
		root.Remove(slot)
		must(t, r.dev.Close())
		must(t, mem.Close())
		if n := r.msi.Open.Load(); n != 0 {
			t.Errorf("%d interrupts left open", n)
		}
		if n := r.bells.Len(); n != 0 {
			t.Errorf("%d doorbells left", n)
		}
		if n := r.msi.Bound(); n != 0 {
			t.Errorf("%d eventfds left bound", n)
		}
	})
	r.set(cfg(4), 2, 6)
	for at := r.get(cfg(0x34), 1); at != 0; at = r.get(cfg(at+1), 1) {
		if r.get(cfg(at), 1) == 0x11 {
			r.msix = cfg(at)
		} else if r.get(cfg(at+3), 1) == 5 {
			r.pcap = cfg(at)
		}
	}
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func cfg(reg uint64) uint64 { return ecam + 1<<15 + reg }

func (r *rig) get(addr uint64, n int) uint64 {
	var b [8]byte
	r.mmio.Read(addr, b[:n])
	return binary.LittleEndian.Uint64(b[:])
}

func (r *rig) set(addr uint64, n int, v uint64) {
	r.mmio.Write(addr, binary.LittleEndian.AppendUint64(nil, v)[:n])
}

func (r *rig) setBAR(base uint64) {
	r.set(cfg(0x10), 4, base&0xffffffff)
	r.set(cfg(0x14), 4, base>>32)
}

// live drives the device up to DRIVER_OK with its queue at 0x1000 and vector 1.
func (r *rig) live() {
	r.set(window+0x14, 1, 1)
	r.set(window+0x14, 1, 3)
	r.set(window+0x08, 4, 1)
	r.set(window+0x0c, 4, 1) // VERSION_1
	r.set(window+0x14, 1, 0xb)
	r.set(window+0x16, 2, 0)
	r.set(window+0x1a, 2, 1)
	r.set(window+0x20, 4, 0x1000)
	r.set(window+0x28, 4, 0x2000)
	r.set(window+0x30, 8, 0x3000)
	r.set(window+0x1c, 2, 1)
	r.set(window+0x14, 1, 0xf)
	if got := r.get(window+0x14, 1); got != 0xf {
		r.t.Fatalf("status %#x", got)
	}
}

func (r *rig) writeEntry(i, data uint64, masked bool) {
	e := table + 16*i
	r.set(e, 8, 0xfee01000)
	m := uint64(0)
	if masked {
		m = 1
	}
	r.set(e+8, 8, m<<32|data)
}

// breakDevice raises the configuration interrupt of a live device by breaking it.
func (r *rig) breakDevice() { r.set(window+0x14, 1, 1) }

func TestIdentityAndLayout(t *testing.T) {
	r := newRig(t)
	if id := r.get(cfg(0), 4); id != 0x10441af4 {
		t.Errorf("id %#x", id)
	}
	if rev := r.get(cfg(8), 1); rev != 1 {
		t.Errorf("revision %d: drivers before 1.0 would bind", rev)
	}
	if pin := r.get(cfg(0x3d), 1); pin != 0 {
		t.Errorf("interrupt pin %d: INTx is not offered", pin)
	}
	if n := r.get(r.msix+2, 2); n != 1 {
		t.Errorf("MSI-X control %#x, want two vectors", n)
	}
}

func TestDoorbellsFollowTheBAR(t *testing.T) {
	r := newRig(t)
	if r.bells.Len() != 0 {
		t.Fatal("doorbells before DRIVER_OK")
	}
	r.live()
	at := func(base uint64) bool { return r.bells.Len() == 1 && r.bells.Write(base+0x3000, 2, 0) }
	if !at(window) {
		t.Fatal("no doorbell after DRIVER_OK")
	}
	r.setBAR(window + 0x100000)
	if !at(window + 0x100000) {
		t.Error("doorbell did not move")
	}
	r.set(cfg(4), 2, 0)
	if r.bells.Len() != 0 {
		t.Error("doorbell of a BAR that is not decoded")
	}
	r.set(cfg(4), 2, 2)
	if !at(window + 0x100000) {
		t.Error("doorbell did not come back")
	}
	r.set(window+0x100000+0x14, 1, 0)
	if r.bells.Len() != 0 {
		t.Error("doorbell after reset")
	}
}

func TestBARMoveIsUndoneWhenDoorbellsFail(t *testing.T) {
	r := newRig(t)
	r.live()
	r.bells.Refuse = func(addr uint64) error {
		if addr >= window+0x100000 {
			return errors.New("no more room")
		}
		return nil
	}
	r.setBAR(window + 0x100000)
	if got := r.get(window+0x14, 1); got != 0xf {
		t.Errorf("device does not answer where it was: %#x", got)
	}
	if !r.bells.Write(notify, 2, 0) || r.bells.Len() != 1 {
		t.Error("doorbell lost")
	}
}

func TestDoorbellWriteThatExitsStillKicks(t *testing.T) {
	r := newRig(t)
	r.bells.Refuse = func(uint64) error { return errors.New("none") }
	r.live()
	before := r.dev.Core().Runs(0)
	r.set(notify, 2, 0)
	r.set(notify+4, 2, 1)     // no such queue
	r.set(notify+2, 2, 0)     // between two doorbells
	r.set(notify+0xffc, 4, 0) // far out
	if !virtiotest.Poll(func() bool { return r.dev.Core().Runs(0) >= before+1 }) {
		t.Error("the worker did not run")
	}
}

func TestMSIXMasking(t *testing.T) {
	r := newRig(t)
	r.live()
	r.set(window+0x10, 2, 0) // configuration changes on vector 0
	r.writeEntry(0, 7, true)
	r.set(r.msix+2, 2, 0x8000)
	pending := func() uint64 { return r.get(pba, 8) }

	r.breakDevice()
	if r.msi.Count(7) != 0 || pending() != 1 {
		t.Fatalf("masked entry: delivered %d, pending %#x", r.msi.Count(7), pending())
	}
	r.set(r.msix+2, 2, 0xc000) // function mask
	r.set(table+12, 4, 0)
	if r.msi.Count(7) != 0 || pending() != 1 {
		t.Fatalf("masked function: delivered %d, pending %#x", r.msi.Count(7), pending())
	}
	r.set(r.msix+3, 1, 0x80) // a byte access to Message Control
	if r.msi.Count(7) != 1 || pending() != 0 {
		t.Fatalf("unmasked: delivered %d, pending %#x", r.msi.Count(7), pending())
	}
	r.set(pba, 8, ^uint64(0))
	if pending() != 0 {
		t.Error("pending bits can be written")
	}
}

func TestMSIXRoutesOnlyWhatChanged(t *testing.T) {
	r := newRig(t)
	r.writeEntry(0, 1, true)
	r.writeEntry(1, 2, true)
	if n := r.msi.Routes.Load(); n != 0 {
		t.Errorf("%d routes before MSI-X is on", n)
	}
	r.set(r.msix+2, 2, 0x8000)
	r.writeEntry(0, 3, true)
	if n := r.msi.Routes.Load(); n != 0 {
		t.Errorf("%d routes for masked entries", n)
	}
	r.set(table+12, 4, 0)
	r.set(table+12, 4, 0)
	r.set(table+8, 4, 3)
	r.set(r.msix+2, 2, 0x8000)
	if n := r.msi.Routes.Load(); n != 1 {
		t.Errorf("%d routes for one unmasked entry", n)
	}
	r.set(table+8, 4, 4)
	if n := r.msi.Routes.Load(); n != 2 {
		t.Errorf("%d routes after its message changed", n)
	}
	r.set(r.msix+2, 2, 0)
	if n := r.msi.Masks.Load(); n != 1 {
		t.Errorf("%d masks after MSI-X went off", n)
	}
}

func TestMSIXTableAccessShapes(t *testing.T) {
	r := newRig(t)
	r.set(table, 8, 0x1122334455667788)
	if got := r.get(table+4, 4); got != 0x11223344 {
		t.Errorf("upper half of a 64-bit write %#x", got)
	}
	r.set(table+12, 4, 0xffffffff)
	if got := r.get(table+12, 4); got != 1 {
		t.Errorf("vector control keeps %#x, want the mask bit alone", got)
	}
	r.set(table+1, 1, 0)
	r.set(table+2, 4, 0)
	r.set(table+4, 8, 0)
	if got := r.get(table, 8); got != 0x1122334455667788 {
		t.Errorf("undefined writes changed the entry to %#x", got)
	}
	r.set(table+16*2, 8, 1) // past the last entry
	if got := r.get(table+16*2, 8); got != ^uint64(0) {
		t.Errorf("entry past the table reads %#x", got)
	}
}

func TestVectorsOutOfRangeBecomeNoVector(t *testing.T) {
	r := newRig(t)
	for _, reg := range []uint64{window + 0x10, window + 0x1a} {
		r.set(reg, 2, 1)
		if got := r.get(reg, 2); got != 1 {
			t.Errorf("vector reads %#x", got)
		}
		r.set(reg, 2, 2)
		if got := r.get(reg, 2); got != 0xffff {
			t.Errorf("vector 2 of 2 reads %#x, want NO_VECTOR", got)
		}
	}
	r.set(window+0x16, 2, 5)
	r.set(window+0x1a, 2, 0)
	if got := r.get(window+0x1a, 2); got != 0xffff {
		t.Errorf("vector of a queue that is not there: %#x", got)
	}
	r.live()
	r.set(r.msix+2, 2, 0x8000)
	r.breakDevice() // configuration interrupt without a vector
	if r.get(isr, 1)&2 == 0 {
		t.Error("ISR does not show the configuration change")
	}
	if r.get(isr, 1) != 0 {
		t.Error("reading the ISR did not clear it")
	}
}

func TestConfigAccessCapability(t *testing.T) {
	r := newRig(t)
	access := func(bar, off, n uint64) {
		r.set(r.pcap+4, 1, bar)
		r.set(r.pcap+8, 4, off)
		r.set(r.pcap+12, 4, n)
	}
	access(0, 0x12, 2)
	if got := r.get(r.pcap+16, 2); got != 1 {
		t.Errorf("num_queues through the window %d", got)
	}
	access(0, 0x14, 1)
	r.set(r.pcap+16, 1, 1)
	if got := r.get(window+0x14, 1); got != 1 {
		t.Errorf("status written through the window %#x", got)
	}
	for _, c := range [][3]uint64{{1, 0x14, 1}, {0, 0x14, 8}, {0, 0x14, 0}, {0, 0x13, 2}, {0, 1 << 31, 4}, {0, 0x8000, 4}} {
		access(c[0], c[1], c[2])
		r.set(r.pcap+16, 4, 0)
		r.get(r.pcap+16, 4)
	}
	if got := r.get(window+0x14, 1); got != 1 {
		t.Errorf("an impossible window reached the device: status %#x", got)
	}
}

func TestOddAccessesAreHarmless(t *testing.T) {
	r := newRig(t)
	r.live()
	for off := range uint64(0x8000) {
		for _, n := range []int{1, 2, 4, 8} {
			if off%4 != 0 || n == 8 || off >= 0x38 && off < 0x3000 { // not the real registers
				if off == 0x14 || off == 0x15 {
					continue
				}
				r.get(window+off, n)
				r.set(window+off, n, 0)
			}
		}
	}
	if got := r.get(window+0x14, 1); got != 0xf {
		t.Errorf("status %#x", got)
	}
}

func TestTooManyQueuesAreRefused(t *testing.T) {
	mem, err := memory.New(memory.Options{Size: 4096})
	must(t, err)
	defer func() { must(t, mem.Close()) }()
	var msi virtiotest.MSIs
	_, err = pci.New(pci.Options{Device: wide{rng.New()}, Mem: mem, Doorbells: &virtiotest.Doorbells{}, MSI: &msi})
	if !errors.Is(err, pcibus.ErrDesign) {
		t.Errorf("New = %v", err)
	}
}

// wide is a device with more configuration than the BAR has room for.
type wide struct{ *rng.Device }

func (w wide) Info() virtio.Info {
	i := w.Device.Info()
	i.ConfigLen = 1 << 20
	return i
}
func (wide) ReadConfig([]byte, uint32)  {}
func (wide) WriteConfig([]byte, uint32) {}

// FuzzFunction lets a guest do anything to configuration space, BAR and MSI-X.
func FuzzFunction(f *testing.F) {
	f.Add([]byte{0, 0x14, 0x00, 0, 1, 0, 0, 0, 0, 0x14, 0, 0, 3, 0, 0, 0})
	f.Add([]byte{2, 0x10, 0x00, 2, 0, 0, 0x10, 0, 0, 0x00, 0x40, 3, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := newRig(t)
		if len(script) > 4096 {
			script = script[:4096]
		}
		if len(script) > 0 && script[0]&0x80 != 0 {
			r.live()
		}
		for ; len(script) >= 8; script = script[8:] {
			off := uint64(binary.LittleEndian.Uint16(script[1:]))
			n := []int{1, 2, 4, 8}[script[3]&3]
			v := uint64(binary.LittleEndian.Uint32(script[4:])) * 0x100000001
			bar := r.get(cfg(0x10), 4)&^0xf | r.get(cfg(0x14), 4)<<32
			switch script[0] & 3 {
			case 0:
				r.set(bar+off&0x7fff, n, v)
			case 1:
				r.get(bar+off&0x7fff, n)
			case 2:
				r.set(cfg(off&0xff), n, v)
			case 3:
				r.get(cfg(off&0xff), n)
			}
		}
		r.setBAR(window)
		r.set(cfg(4), 2, 2)
		r.set(window+0x14, 1, 0)
		if got := r.get(window+0x14, 1); got != 0 {
			t.Fatalf("status after reset %#x", got)
		}
		r.live()
		if !r.bells.Write(notify, 2, 0) {
			t.Fatal("no doorbell after a reset")
		}
	})
}
