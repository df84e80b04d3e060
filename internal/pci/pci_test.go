package pci_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
)

const (
	window32 = 0xc0000000
	window64 = 0x4000000000
	ecamBase = 0xe0000000
	barSize  = 0x4000
)

type ram [barSize]byte

func (r *ram) ReadAt(off uint64, p []byte)  { copy(p, r[off:]) }
func (r *ram) WriteAt(off uint64, p []byte) { copy(r[off:], p) }

// rig is a bus with one function behind ECAM and the ports.
type rig struct {
	t     testing.TB
	mmio  bus.Bus
	pio   bus.Bus
	root  *pci.Bus
	fn    *pci.Function
	ram   ram
	moves []uint64 // bases; 0 is unmapped
	deny  bool     // Moved fails
}

var errDenied = errors.New("denied")

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t}
	r.root = pci.New(pci.Options{
		MMIO:     &r.mmio,
		Window32: memory.Span{GPA: window32, Size: 1 << 20},
		Window64: memory.Span{GPA: window64, Size: 1 << 30},
	})
	r.fn = pci.NewFunction("nic", pci.Header{Vendor: 0x1af4, Device: 0x1041, SubVendor: 0x1af4, SubDevice: 0x1100, Class: 0x020000, Revision: 1}, nil)
	must(t, r.fn.AddBAR(0, pci.BAR{Size: barSize, Handler: &r.ram, Moved: func(base uint64, mapped bool) error {
		if r.deny {
			return errDenied
		}
		if !mapped {
			base = 0
		}
		r.moves = append(r.moves, base)
		return nil
	}}))
	slot, err := r.root.Add(r.fn)
	must(t, err)
	if slot != 1 {
		t.Fatalf("slot %d, want 1", slot)
	}
	must(t, r.mmio.Add(bus.Range{Base: ecamBase, Size: pci.ECAMSize, Handler: r.root.ECAM()}))
	must(t, r.pio.Add(bus.Range{Base: pci.PortBase, Size: pci.PortCount, Handler: r.root.Ports(nil)}))
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(b *bus.Bus, addr uint64, n int) uint64 {
	var p [8]byte
	b.Read(addr, p[:n])
	return binary.LittleEndian.Uint64(p[:])
}

func write(b *bus.Bus, addr uint64, n int, v uint64) {
	b.Write(addr, binary.LittleEndian.AppendUint64(nil, v)[:n])
}

// at is the ECAM address of a register of slot 1.
func at(reg uint64) uint64 { return ecamBase + 1<<15 + reg }

func (r *rig) decode(on bool) {
	v := uint64(0)
	if on {
		v = 2
	}
	write(&r.mmio, at(4), 2, v)
}

func (r *rig) setBAR(base uint64) {
	write(&r.mmio, at(0x10), 4, base&0xffffffff)
	write(&r.mmio, at(0x14), 4, base>>32)
}

// answers reports whether the BAR's memory is at base.
func (r *rig) answers(base uint64) bool {
	r.ram[8]++
	return read(&r.mmio, base+8, 1) == uint64(r.ram[8])
}

func TestECAMAndPortsSeeTheSameFunction(t *testing.T) {
	r := newRig(t)
	if got := read(&r.mmio, at(0), 4); got != 0x10411af4 {
		t.Errorf("ECAM id %#x", got)
	}
	write(&r.pio, 0xcf8, 4, 1<<31|1<<11|0x2c)
	if got := read(&r.pio, 0xcfe, 2); got != 0x1100 {
		t.Errorf("subsystem by port %#x", got)
	}
	if got := read(&r.pio, 0xcf8, 4); got != 1<<31|1<<11|0x2c {
		t.Errorf("address register reads %#x", got)
	}
	write(&r.pio, 0xcf8, 4, 1<<31|1<<11|0x3c)
	write(&r.pio, 0xcfc, 1, 0x0b) // interrupt line is scratch
	if got := read(&r.mmio, at(0x3c), 1); got != 0x0b {
		t.Errorf("interrupt line %#x", got)
	}
	if got := read(&r.mmio, ecamBase, 4); got != 0x00081b36 {
		t.Errorf("host bridge id %#x", got)
	}
}

func TestWhatIsNotThereReadsAllOnes(t *testing.T) {
	r := newRig(t)
	for name, addr := range map[string]uint64{
		"empty slot":     ecamBase + 2<<15,
		"last slot":      ecamBase + 31<<15,
		"function 1":     at(0) + 1<<12,
		"extended":       at(0x100),
		"last extended":  at(0xffc),
		"unaligned word": at(1),
	} {
		write(&r.mmio, addr, 4, 0)
		if got := read(&r.mmio, addr, 4); got != 0xffffffff {
			t.Errorf("%s reads %#x", name, got)
		}
	}
	if got := read(&r.mmio, at(0), 8); got != ^uint64(0) {
		t.Errorf("8-byte cycle reads %#x", got)
	}
	for name, a := range map[string]uint64{
		"disabled": 1 << 11, "bus 1": 1<<31 | 1<<16, "function 1": 1<<31 | 1<<11 | 1<<8,
		"reserved bits": 1<<31 | 1<<24 | 1<<11, "empty slot": 1<<31 | 9<<11,
	} {
		write(&r.pio, 0xcf8, 4, a)
		if got := read(&r.pio, 0xcfc, 4); got != 0xffffffff {
			t.Errorf("ports, %s: %#x", name, got)
		}
	}
	write(&r.pio, 0xcf8, 4, 1<<31|1<<11)
	if got := read(&r.pio, 0xcfd, 2); got != 0xffff { // not aligned
		t.Errorf("unaligned port read %#x", got)
	}
}

func TestPort0xcf9BelongsToTheResetControl(t *testing.T) {
	var b bus.Bus
	var reset ram
	must(t, b.Add(bus.Range{Base: pci.PortBase, Size: pci.PortCount, Handler: pci.New(pci.Options{MMIO: &b}).Ports(&reset)}))
	write(&b, 0xcf9, 1, 6)
	if reset[0] != 6 || read(&b, 0xcf9, 1) != 6 {
		t.Errorf("reset control got %#x", reset[0])
	}
	if got := read(&b, 0xcf8, 4); got != 0 {
		t.Errorf("address register %#x after a write to 0xcf9", got)
	}
}

func TestReadOnlyBitsStay(t *testing.T) {
	r := newRig(t)
	before := make([]byte, pci.ConfigSize)
	r.fn.Config(0, before)
	for reg := uint64(0); reg < pci.ConfigSize; reg += 4 {
		write(&r.mmio, at(reg), 4, 0xffffffff)
	}
	after := make([]byte, pci.ConfigSize)
	r.fn.Config(0, after)
	for i := range before {
		switch {
		case i == 4, i == 5, i == 0x3c, i >= 0x10 && i < 0x18:
		case before[i] != after[i]:
			t.Errorf("byte %#x changed from %#x to %#x", i, before[i], after[i])
		}
	}
	if got := read(&r.mmio, at(4), 2); got != 0x406 {
		t.Errorf("command register keeps %#x, want 0x406", got)
	}
}

func TestBARSizing(t *testing.T) {
	r := newRig(t)
	old := read(&r.mmio, at(0x10), 4) | read(&r.mmio, at(0x14), 4)<<32
	if old != window64|4 {
		t.Errorf("BAR starts as %#x, want the first place of the 64-bit window", old)
	}
	for _, decode := range []bool{false, true} {
		r.decode(decode)
		r.setBAR(^uint64(0))
		got := read(&r.mmio, at(0x10), 4) | read(&r.mmio, at(0x14), 4)<<32
		if size := ^(got &^ 0xf) + 1; size != barSize || got&0xf != 4 {
			t.Errorf("sizing with decode %v gives %#x", decode, got)
		}
		r.setBAR(old)
		if decode && !r.answers(window64) {
			t.Error("BAR lost by sizing")
		}
	}
}

func TestBARFollowsDecodeAndAddress(t *testing.T) {
	r := newRig(t)
	if len(r.moves) != 0 || r.answers(window64) {
		t.Fatal("BAR decoded before the guest switched it on")
	}
	r.decode(true)
	if !r.answers(window64) {
		t.Fatal("BAR does not answer")
	}
	for _, base := range []uint64{window32 + 0x8000, window64 + 0x10000000, window64} { // across windows, while decoding
		r.setBAR(base)
		if !r.answers(base) || r.moves[len(r.moves)-1] != base {
			t.Errorf("BAR not at %#x; moves %#x", base, r.moves)
		}
	}
	r.decode(false)
	if r.answers(window64) || r.moves[len(r.moves)-1] != 0 {
		t.Error("BAR answers with decoding off")
	}
	r.setBAR(window32)
	r.decode(true)
	if !r.answers(window32) {
		t.Error("BAR not where it was put while off")
	}
	r.root.Remove(1)
	if r.answers(window32) || read(&r.mmio, at(0), 4) != 0xffffffff {
		t.Error("removed function answers")
	}
}

func TestImpossibleBARPlacesLeaveItWhereItWas(t *testing.T) {
	r := newRig(t)
	r.decode(true)
	must(t, r.mmio.Add(bus.Range{Base: window64 + 0x100000, Size: 0x1000, Name: "other", Handler: &ram{}}))
	for name, base := range map[string]uint64{
		"taken": window64 + 0x100000, "in RAM": 0x100000, "past the window": window64 + 1<<30,
		"wraps": ^uint64(barSize - 1), "across the end": window64 + 1<<30 - barSize/2,
	} {
		r.setBAR(base)
		if name == "across the end" { // rounds down to the last place that fits
			base = window64 + 1<<30 - barSize
			if !r.answers(base) {
				t.Errorf("%s: not at %#x", name, base)
			}
			r.setBAR(window64)
			continue
		}
		if !r.answers(window64) {
			t.Errorf("%s: BAR no longer where it was; ranges %v", name, r.mmio.Ranges())
		}
		r.setBAR(window64)
	}
}

func TestMoveIsUndoneWhenItsOwnerRefuses(t *testing.T) {
	r := newRig(t)
	r.decode(true)
	r.deny = true
	r.setBAR(window32)
	if !r.answers(window64) || r.answers(window32) {
		t.Error("BAR moved although its owner could not follow")
	}
	r.decode(false)
	if !r.answers(window64) {
		t.Error("BAR switched off although its owner could not follow")
	}
	r.deny = false
	r.decode(true)
	if !r.answers(window32) {
		t.Error("BAR did not go where the guest wants it once it could")
	}
}

func TestSlotsAndWindowsRunOut(t *testing.T) {
	r := newRig(t)
	for i := 2; i < pci.Slots; i++ {
		slot, err := r.root.Add(pci.NewFunction("f", pci.Header{}, nil))
		if err != nil || slot != i {
			t.Fatalf("function %d: slot %d, %v", i, slot, err)
		}
	}
	if _, err := r.root.Add(pci.NewFunction("f", pci.Header{}, nil)); !errors.Is(err, pci.ErrFull) {
		t.Errorf("a function too many: %v", err)
	}
	r = newRig(t)
	big := pci.NewFunction("big", pci.Header{}, nil)
	must(t, big.AddBAR(0, pci.BAR{Size: 1 << 30, Handler: &ram{}}))
	if _, err := r.root.Add(big); !errors.Is(err, pci.ErrFull) {
		t.Errorf("a BAR too large: %v", err)
	}
	small := pci.NewFunction("small", pci.Header{}, nil)
	must(t, small.AddBAR(0, pci.BAR{Size: 1 << 29, Handler: &ram{}}))
	slot, err := r.root.Add(small)
	must(t, err)
	low := read(&r.mmio, ecamBase+uint64(slot)<<15+0x14, 4)<<32 | read(&r.mmio, ecamBase+uint64(slot)<<15+0x10, 4)&^0xf
	if low != window64+1<<29 {
		t.Errorf("BAR at %#x is not the next aligned place", low)
	}
}

func TestImpossibleFunctionsAreRefused(t *testing.T) {
	f := pci.NewFunction("f", pci.Header{}, nil)
	for _, b := range []pci.BAR{{Size: 4096}, {Size: 0, Handler: &ram{}}, {Size: 5000, Handler: &ram{}}, {Size: 1024, Handler: &ram{}}} {
		if err := f.AddBAR(0, b); !errors.Is(err, pci.ErrDesign) {
			t.Errorf("BAR %+v: %v", b, err)
		}
	}
	must(t, f.AddBAR(2, pci.BAR{Size: 4096, Handler: &ram{}}))
	if err := f.AddBAR(2, pci.BAR{Size: 4096, Handler: &ram{}}); !errors.Is(err, pci.ErrDesign) {
		t.Errorf("same BAR twice: %v", err)
	}
	if _, err := f.AddCapability(9, make([]byte, 250), nil, nil); !errors.Is(err, pci.ErrDesign) {
		t.Errorf("capability too long: %v", err)
	}
}

func TestCapabilitiesAreChained(t *testing.T) {
	r := newRig(t)
	f := pci.NewFunction("f", pci.Header{}, nil)
	var want []int
	for i := range 3 {
		at, err := f.AddCapability(uint8(0x10+i), make([]byte, 5), nil, nil)
		must(t, err)
		want = append(want, at)
	}
	slot, err := r.root.Add(f)
	must(t, err)
	base := ecamBase + uint64(slot)<<15
	if read(&r.mmio, base+6, 2)&0x10 == 0 {
		t.Error("status does not announce capabilities")
	}
	next := read(&r.mmio, base+0x34, 1)
	for i, at := range want {
		if next != uint64(at) || at%4 != 0 || read(&r.mmio, base+next, 1) != uint64(0x10+i) {
			t.Fatalf("capability %d at %#x, want %#x", i, next, at)
		}
		next = read(&r.mmio, base+next+1, 1)
	}
	if next != 0 {
		t.Errorf("chain does not end: %#x", next)
	}
}

func TestStateRoundTripAndHostileState(t *testing.T) {
	r := newRig(t)
	r.decode(true)
	r.setBAR(window32 + 0x10000)
	write(&r.mmio, at(0x10), 4, 0) // now the register does not say where it is
	write(&r.pio, 0xcf8, 4, 1<<31|0x44)
	s := r.fn.Save()
	sec, err := state.Save("pci", r.root)
	must(t, err)

	n := newRig(t)
	must(t, n.fn.Load(s))
	must(t, state.Load(sec, n.root))
	if !n.answers(window32+0x10000) || read(&n.pio, 0xcf8, 4) != 1<<31|0x44 {
		t.Error("restored bus differs")
	}
	if err := n.fn.Load(s); !errors.Is(err, pci.ErrState) {
		t.Errorf("loading into a function in use: %v", err)
	}
	for name, harm := range map[string]func(*pci.FunctionState){
		"short":        func(s *pci.FunctionState) { s.Config = s.Config[:64] },
		"other device": func(s *pci.FunctionState) { s.Config[2]++ },
		"no BARs":      func(s *pci.FunctionState) { s.BARs = nil },
		"BAR in RAM":   func(s *pci.FunctionState) { s.BARs = []pci.BARState{{Base: 0, Mapped: true}} },
		"misaligned":   func(s *pci.FunctionState) { s.BARs = []pci.BARState{{Base: window32 + 4, Mapped: true}} },
		"taken":        func(s *pci.FunctionState) { s.BARs = []pci.BARState{{Base: window32, Mapped: true}} },
	} {
		n := newRig(t)
		must(t, n.mmio.Add(bus.Range{Base: window32, Size: 0x1000, Handler: &ram{}}))
		bad := pci.FunctionState{Config: append([]byte(nil), s.Config...), BARs: s.BARs}
		harm(&bad)
		if err := n.fn.Load(bad); !errors.Is(err, pci.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
		if len(n.mmio.Ranges()) != 2 {
			t.Errorf("%s: left %v", name, n.mmio.Ranges())
		}
	}
}

// FuzzConfig does configuration cycles of every shape through both ways. The
// bus must stay consistent: one range for the BAR at most, inside a window.
func FuzzConfig(f *testing.F) {
	f.Add([]byte{0, 4, 4, 2, 0, 0, 0, 0, 0x10, 4, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 4, 2, 6, 0, 0, 0, 1, 0x14, 4, 1, 2, 3, 4, 2, 0, 4, 0, 8, 0, 0x80})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := newRig(t)
		for len(script) >= 7 {
			way, reg, n := script[0], uint64(script[1])|uint64(script[0]&0xf0)<<4, []int{1, 2, 4, 8}[script[2]&3]
			v := uint64(binary.LittleEndian.Uint32(script[3:]))
			script = script[7:]
			switch way & 3 {
			case 0:
				write(&r.mmio, at(reg&0xfff), n, v)
			case 1:
				read(&r.mmio, at(reg&0xfff), n)
			case 2:
				write(&r.pio, 0xcf8+reg&7, min(n, 8-int(reg&7)), v)
			case 3:
				read(&r.pio, 0xcf8+reg&7, min(n, 8-int(reg&7)))
			}
		}
		bars := 0
		for _, g := range r.mmio.Ranges() {
			if g.Handler != bus.Handler(&r.ram) {
				continue
			}
			bars++
			if in32 := g.Base >= window32 && g.Base+g.Size <= window32+1<<20; !in32 && (g.Base < window64 || g.Base+g.Size > window64+1<<30) {
				t.Fatalf("BAR at %#x", g.Base)
			}
		}
		if on := read(&r.mmio, at(4), 2)&2 != 0; bars > 1 || bars == 1 && !on {
			t.Fatalf("%d ranges with decoding %v", bars, on)
		}
	})
}

func TestASlotIsUsedAgain(t *testing.T) {
	r := newRig(t)
	low := func(slot int) uint64 {
		return read(&r.mmio, ecamBase+uint64(slot)<<15+0x14, 4)<<32 | read(&r.mmio, ecamBase+uint64(slot)<<15+0x10, 4)&^0xf
	}
	add := func(slot int, size uint64) error {
		f := pci.NewFunction("f", pci.Header{}, nil)
		must(t, f.AddBAR(0, pci.BAR{Size: size, Handler: &ram{}}))
		return r.root.AddAt(f, slot)
	}
	for _, slot := range []int{-1, 0, 1, pci.Slots} {
		if err := add(slot, barSize); !errors.Is(err, pci.ErrFull) {
			t.Errorf("slot %d: %v", slot, err)
		}
	}
	const size = 1 << 20
	must(t, add(20, size))
	first := low(20)
	for range 2048 { // would fill the window twice over
		r.root.Remove(20)
		must(t, add(20, size))
	}
	if got := low(20); got != first {
		t.Errorf("BAR at %#x, was %#x", got, first)
	}
	must(t, add(21, size))
	if got := low(21); got != first+size {
		t.Errorf("the next BAR at %#x, want %#x", got, first+size)
	}
	r.root.Remove(20)
	must(t, add(20, 2*size)) // another device, which does not fit there
	if got := low(20); got == first {
		t.Error("a BAR twice as large over its neighbour")
	}
}
