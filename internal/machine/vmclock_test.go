package machine

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/hvctl/hvctl/internal/acpi"
)

func readVMClock(t testing.TB, m *Machine) (c vmClock) {
	t.Helper()
	b := make([]byte, 0x70)
	must(t, m.mem.ReadAt(b, vmClockAddr))
	must(t, binary.Read(bytes.NewReader(b), binary.LittleEndian, &c))
	return c
}

func TestVMClockTellsOfBreaksAndCopies(t *testing.T) {
	m := newMachine(t, Config{}, spin...)
	var raw [16]byte
	must(t, m.mem.ReadAt(raw[:], vmClockAddr))
	if want := []byte("VCLK\x00\x10\x00\x00\x01\x00\xff\x01\x00\x00\x00\x00"); !bytes.Equal(raw[:], want) {
		t.Errorf("the structure begins with %x, want %x", raw, want)
	}
	first := readVMClock(t, m)
	m.start(t, t.Context())
	must(t, m.Pause(t.Context()))
	must(t, m.Resume(t.Context()))
	if c := readVMClock(t, m); c != first {
		t.Errorf("a pause alone changed it: %+v", c)
	}
	s := m.save(t)

	n := blank(t, Config{})
	n.restore(t, s)
	n.power.events.Store(0)
	must(t, n.Resume(t.Context()))
	moved := readVMClock(t, n)
	want := first
	want.Disruption, want.Sequence = 1, 2
	if moved != want {
		t.Errorf("after a move %+v, want %+v", moved, want)
	}
	if n.power.events.Load()&acpi.GEDEventVMClock == 0 {
		t.Error("the guest is not told")
	}

	k := blank(t, Config{})
	k.restore(t, s)
	must(t, k.NewGeneration())
	must(t, k.Resume(t.Context()))
	want.Generation, want.Sequence = 1, 4
	if c := readVMClock(t, k); c != want {
		t.Errorf("a copy has %+v, want %+v", c, want)
	}
}

func TestVMClockLeavesOtherMemoryAlone(t *testing.T) {
	m := newMachine(t, Config{}, spin...)
	junk := bytes.Repeat([]byte{0x5a}, 0x70)
	must(t, m.mem.WriteAt(junk, vmClockAddr))
	n := blank(t, Config{})
	n.restore(t, m.save(t))
	must(t, n.NewGeneration())
	must(t, n.Resume(t.Context()))
	got := make([]byte, 0x70)
	must(t, n.mem.ReadAt(got, vmClockAddr))
	if !bytes.Equal(got, junk) {
		t.Errorf("what the guest had written became %x", got)
	}
}
