package machine

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Where a micro-kernel has its page tables, and at which address it then sees the
// first 2 MiB above 4 GiB.
const (
	tablesAt = 0x300000
	seenAt   = 0xc0000000
)

// pagingOn is code that maps the first 16 MiB to themselves, and 2 MiB at seenAt to
// what lies at 4 GiB; m needs the tables of mapHigh.
var pagingOn = []byte{
	0xb8, 0x00, 0x00, 0x30, 0x00, // mov eax, tablesAt
	0x0f, 0x22, 0xd8, // mov cr3, eax
	0x0f, 0x20, 0xe0, // mov eax, cr4
	0x83, 0xc8, 0x20, // or eax, PAE
	0x0f, 0x22, 0xe0, // mov cr4, eax
	0xb9, 0x80, 0x00, 0x00, 0xc0, // mov ecx, EFER
	0x0f, 0x32, // rdmsr
	0x0d, 0x00, 0x01, 0x00, 0x00, // or eax, LME
	0x0f, 0x30, // wrmsr
	0x0f, 0x20, 0xc0, // mov eax, cr0
	0x0d, 0x00, 0x00, 0x00, 0x80, // or eax, PG
	0x0f, 0x22, 0xc0, // mov cr0, eax
}

// mapHigh writes the page tables of pagingOn (SDM vol. 3, 4.5: four levels, 2 MiB pages).
func (m *Machine) mapHigh(t *testing.T, high memory.GPA) {
	t.Helper()
	put := func(at memory.GPA, v uint64) {
		if err := m.mem.WriteAt(binary.LittleEndian.AppendUint64(nil, v), at); err != nil {
			t.Fatal(err)
		}
	}
	put(tablesAt, tablesAt+0x1000|3)
	put(tablesAt+0x1000, tablesAt+0x2000|3)
	put(tablesAt+0x1000+3*8, tablesAt+0x3000|3)
	for i := range uint64(8) {
		put(memory.GPA(tablesAt+0x2000+8*i), i<<21|0x83)
	}
	put(tablesAt+0x3000, uint64(high)|0x83)
}

func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// peek is code that copies a word to counterAt+to, and poke one that writes one.
func peek(from, to uint32) []byte {
	return slices.Concat([]byte{0xa1}, le32(from), []byte{0xa3}, le32(counterAt+to))
}

func poke(to, v uint32) []byte { return slices.Concat([]byte{0xc7, 0x05}, le32(to), le32(v)) }

var goOff = outb(portPower+offSleep, 0x34)

func mappedFile(t *testing.T, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pmem")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0x42}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pmemOf(path, ro string) Device {
	return Device{Kind: "pmem", Args: virtio.Args{ID: "p", Values: map[string]string{"path": path, "ro": ro}}}
}

// A guest reads the file as memory. What it writes gets there, or not, if it is
// read-only.
func TestAFileIsTheGuestsMemory(t *testing.T) {
	for _, ro := range []string{"on", "off"} {
		t.Run("ro="+ro, func(t *testing.T) {
			path := mappedFile(t, 2<<20)
			m := newMachine(t, Config{Devices: []Device{pmemOf(path, ro)}},
				slices.Concat(pagingOn, peek(seenAt, 0), poke(seenAt+4, 0x11223344), peek(seenAt+4, 4), goOff)...)
			m.mapHigh(t, memory.HoleEnd)
			if end := m.Run(t.Context()); end.Reason != PowerOff {
				t.Fatal(end)
			}
			b, err := m.mem.Slice(counterAt, 8)
			if err != nil {
				t.Fatal(err)
			}
			if v := binary.LittleEndian.Uint32(b); v != 0x42424242 {
				t.Errorf("the guest read %#x", v)
			}
			want := uint32(0x42424242)
			if ro == "off" {
				want = 0x11223344
			}
			if v := binary.LittleEndian.Uint32(b[4:]); v != want {
				t.Errorf("after a write the guest read %#x, want %#x", v, want)
			}
			got, err := os.ReadFile(path)
			if err != nil || len(got) != 2<<20 || binary.LittleEndian.Uint32(got[4:]) != want {
				t.Errorf("the file has %d bytes, with % x, %v", len(got), got[:8], err)
			}
		})
	}
}

// A guest that touches what the host has cut off ends, and it is said why.
func TestAFileThatTheHostShrinksEndsTheGuest(t *testing.T) {
	testenv.Require(t, testenv.Linux) // where supervisor code is interpreted, the access reads ones
	path := mappedFile(t, 2<<20)
	m := newMachine(t, Config{Devices: []Device{pmemOf(path, "on")}}, slices.Concat(pagingOn, peek(seenAt, 0), goOff)...)
	m.mapHigh(t, memory.HoleEnd)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	end := m.Run(t.Context())
	if end.Reason != Failed || !strings.Contains(end.String(), "device p") || !strings.Contains(end.String(), "was shrunk from 2097152 to 0 bytes") {
		t.Errorf("it ended with %v", end)
	}
}

func TestDevicesMemoryLiesBehindRAM(t *testing.T) {
	m := newMachine(t, Config{MemoryBytes: 4 << 30, Devices: []Device{pmemOf(mappedFile(t, 1), "on"), {Kind: "pmem", Args: virtio.Args{ID: "q", Values: map[string]string{"path": mappedFile(t, 4<<20)}}}}}, spin...)
	if m.mappedSlots != 2 || m.nextMapped != 6<<30+4<<20 { // RAM ends at 5 GiB
		t.Errorf("%d slots, the last ends at %v", m.mappedSlots, m.nextMapped)
	}
	for at, write := range map[memory.GPA]bool{5 << 30: false, 6<<30 + 4<<20 - 1: true} { // where other devices find buffers
		if b, err := m.mem.Buffer(at, 1, write); err != nil || b[0] != 0x42 {
			t.Errorf("a buffer at %v: %v, %v", at, b, err)
		}
	}
	if _, err := m.mem.Buffer(5<<30, 1, true); err == nil {
		t.Error("a device may write to memory that is read-only")
	}
}

// A guest goes on in another machine that has the same file, at the same place;
// what the file holds is not part of what is saved.
func TestAFileIsThereAfterARestore(t *testing.T) {
	path := mappedFile(t, 2<<20)
	c := Config{Devices: []Device{pmemOf(path, "on")}}
	const copied = counterAt + 8
	loop := slices.Concat(spin[:7], peek(seenAt, 8), []byte{0xeb, 0xed})
	m := newMachine(t, c, slices.Concat(pagingOn, loop)...)
	m.mapHigh(t, memory.HoleEnd)
	m.start(t, t.Context())
	eventually(t, "the guest has read the file", func() bool { return m.word(t, copied) == 0x42424242 })
	s := m.save(t)
	for _, sec := range s.sections {
		if len(sec.Payload) > 1<<20 {
			t.Errorf("section %s has %d bytes", sec.Path, len(sec.Payload))
		}
	}
	again := blank(t, c)
	again.restore(t, s)
	must(t, again.mem.WriteAt(make([]byte, 4), copied))
	again.start(t, t.Context())
	must(t, again.Resume(t.Context()))
	eventually(t, "it has read it again", func() bool { return again.word(t, copied) == 0x42424242 })

	other := blank(t, Config{Devices: []Device{pmemOf(mappedFile(t, 4096), "on")}})
	if err := other.LoadState(s.sections); err == nil || !strings.Contains(err.Error(), "2097152") {
		t.Errorf("beside another file: %v", err)
	}
}
