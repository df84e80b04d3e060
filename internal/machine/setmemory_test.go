package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

const mib = 1 << 20

// growing is the machine of the tests: 16 MiB, and 240 more from 4 GiB on.
var growing = Config{MaxMemoryBytes: 256 * mib}

// Where memDriver has its ring, and what it sends and gets.
const (
	ringAt    memory.GPA = 0x400000
	requestAt            = ringAt + 0x3000
	answerAt             = ringAt + 0x3100
)

// memDriver does what a guest's driver of virtio-mem does, from the host.
type memDriver struct {
	*Machine
	t    *testing.T
	ring memory.GPA
	sent uint16
}

func (d *memDriver) get(off uint64, n int) uint64 {
	var b [8]byte
	d.mmio.Read(uint64(virtioMMIOBase)+off, b[:n])
	return binary.LittleEndian.Uint64(b[:])
}

func (d *memDriver) set(off, v uint64) {
	d.mmio.Write(uint64(virtioMMIOBase)+off, binary.LittleEndian.AppendUint32(nil, uint32(v)))
}

// drive takes the device, with a ring of four at an address.
func drive(t *testing.T, m *Machine, ring memory.GPA) *memDriver {
	t.Helper()
	d := &memDriver{Machine: m, t: t, ring: ring}
	set := func(pairs ...uint64) {
		for i := 0; i < len(pairs); i += 2 {
			d.set(pairs[i], pairs[i+1])
		}
	}
	set(0x70, 0, 0x70, 1, 0x70, 3, 0x24, 0, 0x20, 2, 0x24, 1, 0x20, 1, 0x70, 11) // UNPLUGGED_INACCESSIBLE, VERSION_1
	set(0x30, 0, 0x38, 4)
	for off, at := range map[uint64]uint64{0x80: uint64(ring), 0x90: uint64(ring) + 0x1000, 0xa0: uint64(ring) + 0x2000} {
		set(off, at&0xffffffff, off+4, at>>32)
	}
	set(0x44, 1, 0x70, 15)
	if s := d.get(0x70, 4); s != 15 {
		t.Fatalf("device status %#x", s)
	}
	return d
}

// send has the device look at a request.
func (d *memDriver) send(kind uint16, addr uint64, blocks int, answer memory.GPA) {
	le := binary.LittleEndian
	b := le.AppendUint64(nil, uint64(kind))
	b = le.AppendUint64(le.AppendUint64(b, addr), uint64(blocks))
	must(d.t, d.mem.WriteAt(b, requestAt))
	table := le.AppendUint64(le.AppendUint64(nil, uint64(requestAt)), 24|1<<32|1<<48) // NEXT, 1
	table = le.AppendUint64(le.AppendUint64(table, uint64(answer)), 10|2<<32)         // WRITE
	must(d.t, d.mem.WriteAt(table, d.ring))
	d.sent++
	must(d.t, d.mem.WriteAt(le.AppendUint16(nil, d.sent), d.ring+0x1002))
	d.set(0x50, 0)
}

// ask returns the device's answer to a request.
func (d *memDriver) ask(kind uint16, addr uint64, blocks int) uint16 {
	d.t.Helper()
	d.send(kind, addr, blocks, answerAt)
	eventually(d.t, "the device has answered", func() bool { return uint16(d.word(d.t, d.ring+0x2000)>>16) == d.sent })
	return uint16(d.word(d.t, answerAt))
}

// obey gives and takes blocks until the guest has what it is asked to have, or most
// bytes of the region, from its start on.
func (d *memDriver) obey(most uint64) {
	const at, block = uint64(memory.HoleEnd), memBlock
	for {
		have, want := d.get(0x128, 8), min(d.get(0x130, 8), most)
		var resp uint16
		switch {
		case have == want:
			return
		case have < want:
			resp = d.ask(0, at+have, int((want-have)/block))
		default:
			resp = d.ask(1, at+want, int((have-want)/block))
		}
		if resp != 0 {
			d.t.Errorf("the device answered %d", resp)
			return
		}
	}
}

func runGrowing(t *testing.T) *Machine {
	t.Helper()
	m := newMachine(t, growing, spin...)
	m.start(t, t.Context())
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
	return m
}

// plugged is how much of the file behind the region is there.
func (m *Machine) regionInUse(t *testing.T) (bytes int64) {
	t.Helper()
	r := m.Regions()[len(m.Regions())-1]
	at := int64(r.Offset)
	for {
		from, err := unix.Seek(m.MemoryFD(), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return bytes
		}
		must(t, err)
		if at, err = unix.Seek(m.MemoryFD(), from, unix.SEEK_HOLE); err != nil {
			t.Fatal(err)
		}
		bytes += at - from
	}
}

func TestMemoryIsGivenAndTaken(t *testing.T) {
	m := runGrowing(t)
	if got := m.Memory(); got != (Memory{16 * mib, 16 * mib, 256 * mib}) {
		t.Errorf("at first %+v", got)
	}
	if err := m.SetMemory(t.Context(), 80*mib, 50*time.Millisecond); !errors.Is(err, ErrUntaken) || !strings.Contains(err.Error(), "no driver") {
		t.Errorf("without a driver: %v", err)
	}
	d := drive(t, m, ringAt)
	change := func(to, most uint64) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		idle := time.Minute
		if most != ^uint64(0) {
			idle = 100 * time.Millisecond
		}
		done := make(chan error, 1)
		want := (to - 16*mib + memBlock - 1) / memBlock * memBlock
		go func() { done <- m.SetMemory(ctx, to, idle) }()
		eventually(t, "the device asks", func() bool { return d.get(0x130, 8) == want || len(done) > 0 })
		d.obey(most)
		return <-done
	}
	must(t, change(80*mib, ^uint64(0)))
	must(t, m.mem.WriteAt([]byte{1}, memory.HoleEnd+64*mib-1))
	must(t, change(78*mib, ^uint64(0))) // rounded up to a block: nothing happens
	if got := m.Memory(); got != (Memory{80 * mib, 80 * mib, 256 * mib}) {
		t.Errorf("after it grew %+v", got)
	}
	if err := change(200*mib, 100*mib); !errors.Is(err, ErrUntaken) || !strings.Contains(err.Error(), "up to 116 MiB") {
		t.Errorf("a guest that takes less: %v", err)
	}
	if err := change(16*mib, 100*mib); err != nil { // it gives back all the same
		t.Error(err)
	}
	if n := m.regionInUse(t); n != 0 || m.Memory().Now != 16*mib {
		t.Errorf("%d bytes in use, %+v", n, m.Memory())
	}
	for _, to := range []uint64{0, 15 * mib, 257 * mib, 1 << 60} {
		if err := m.SetMemory(t.Context(), to, time.Minute); !errors.Is(err, ErrPlug) || !strings.Contains(err.Error(), "16 to 256") {
			t.Errorf("%d MiB: %v", to/mib, err)
		}
	}
	must(t, m.Pause(t.Context()))
	if err := m.SetMemory(t.Context(), 80*mib, time.Minute); !errors.Is(err, ErrPlug) || !strings.Contains(err.Error(), "paused") {
		t.Errorf("paused: %v", err)
	}
}

// A guest that asks for what it was not told to have gets nothing.
func TestAGuestThatTakesMoreThanItIsGiven(t *testing.T) {
	m := runGrowing(t)
	d := drive(t, m, ringAt)
	at := uint64(memory.HoleEnd)
	for name, c := range map[string]struct {
		kind   uint16
		addr   uint64
		blocks int
		want   uint16
	}{
		"one block":          {0, at, 1, 1},
		"all":                {0, at, 60, 1},
		"RAM":                {0, 0, 1, 3},
		"behind the region":  {0, at + 256*mib, 1, 3},
		"what it lacks back": {1, at, 1, 3},
	} {
		if got := d.ask(c.kind, c.addr, c.blocks); got != c.want {
			t.Errorf("%s: answer %d, want %d", name, got, c.want)
		}
	}
	if m.Memory().Now != 16*mib {
		t.Errorf("it has %+v", m.Memory())
	}
}

// touching is a guest that writes to the region and reads it back.
var touching = slices.Concat(pagingOn, poke(seenAt+4, 0x11223344), peek(seenAt+4, 4), goOff)

func TestAGuestUsesWhatItIsGiven(t *testing.T) {
	m := newMachine(t, growing, touching...)
	m.mapHigh(t, memory.HoleEnd)
	must(t, m.mem.Pluggable().Plug(0, 1))
	if end := m.Run(t.Context()); end.Reason != PowerOff || m.word(t, counterAt+4) != 0x11223344 {
		t.Errorf("%v, it read %#x", end, m.word(t, counterAt+4))
	}
	if v := m.word(t, memory.HoleEnd+4); v != 0x11223344 || m.regionInUse(t) != memory.PageSize {
		t.Errorf("%#x in %d bytes", v, m.regionInUse(t))
	}
}

// A guest that touches what it lacks makes no page of ours; it ends, and the reason is
// said. Where supervisor code is interpreted, it reads ones and goes on.
func TestAGuestTouchesWhatItLacks(t *testing.T) {
	m := newMachine(t, growing, touching...)
	m.mapHigh(t, memory.HoleEnd)
	must(t, m.mem.Pluggable().Plug(1, 1))
	end := m.Run(t.Context())
	switch {
	case end.Reason == PowerOff && m.word(t, counterAt+4) == 0xffffffff:
	case end.Reason == Failed && strings.Contains(end.String(), "touched memory that it does not have") && strings.Contains(end.String(), "4 of 256 MiB"):
	default:
		t.Errorf("%v, it read %#x", end, m.word(t, counterAt+4))
	}
	if n := m.regionInUse(t); n != 0 {
		t.Errorf("%d bytes in use", n)
	}
}

// Rings and buffers in memory that the guest gave back are its mistake.
func TestRingsInMemoryThatIsTaken(t *testing.T) {
	const at = memory.HoleEnd
	for name, c := range map[string]struct{ ring, answer memory.GPA }{
		"rings":     {at + 0x1000, answerAt},
		"an answer": {ringAt, at + 0x5000},
	} {
		t.Run(name, func(t *testing.T) {
			m := runGrowing(t)
			must(t, m.mem.Pluggable().Plug(0, 1))
			d := drive(t, m, c.ring)
			must(t, m.memory.Request(memBlock))
			if got := d.ask(3, uint64(at), 1); got != 0 {
				t.Fatalf("answer %d", got)
			}
			if c.ring == ringAt {
				d.send(1, uint64(at), 1, answerAt)
			} else {
				must(t, m.mem.Pluggable().Unplug(0, 1))
			}
			if c.ring == ringAt {
				eventually(t, "the block is gone", func() bool { return m.memory.State().Plugged == 0 })
				d.send(3, uint64(at), 1, c.answer)
			} else {
				d.set(0x50, 0)
			}
			eventually(t, "the device wants a reset", func() bool { return virtio.Status(d.get(0x70, 4))&virtio.StatusNeedsReset != 0 })
			was := m.counted(t)
			eventually(t, "the guest goes on", func() bool { return m.counted(t) > was })
			if n := m.regionInUse(t); n != 0 {
				t.Errorf("%d bytes in use", n)
			}
		})
	}
}

// What was given goes along with a guest, and changes there are logged.
func TestMemoryThatWasGivenGoesAlong(t *testing.T) {
	loop := slices.Concat(spin[:7], []byte{0xff, 0x05}, le32(seenAt), []byte{0xeb, 0xf1}) // inc dword [seenAt]; jmp
	m := newMachine(t, growing, slices.Concat(pagingOn, loop)...)
	m.mapHigh(t, memory.HoleEnd)
	must(t, m.mem.Pluggable().Plug(0, 2))
	must(t, m.memory.Request(3*memBlock))
	m.start(t, t.Context())
	eventually(t, "the guest counts there", func() bool { return m.word(t, memory.HoleEnd) > 0 })
	must(t, m.StartDirtyLog())
	was := m.word(t, memory.HoleEnd)
	eventually(t, "the guest goes on", func() bool { return m.word(t, memory.HoleEnd) > was })
	must(t, m.mem.WriteAt([]byte{1}, memory.HoleEnd+memBlock))
	last := len(m.Regions()) - 1
	words := make([]uint64, kvm.DirtyBitmapLen(m.Regions()[last].Size))
	must(t, m.FetchDirty(last, words))
	if words[0]&1 == 0 || words[memBlock/memory.PageSize/64]&1 == 0 {
		t.Errorf("dirty are %#x and %#x", words[0], words[memBlock/memory.PageSize/64])
	}
	if err := m.SetMemory(t.Context(), 80*mib, time.Minute); !errors.Is(err, ErrPlug) || !strings.Contains(err.Error(), "being saved or sent") {
		t.Errorf("while it is sent: %v", err)
	}
	must(t, m.StopDirtyLog())
	s := m.save(t)

	again := blank(t, growing)
	again.restore(t, s)
	if got := again.Memory(); got != (Memory{16*mib + 2*memBlock, 16*mib + 3*memBlock, 256 * mib}) {
		t.Errorf("the copy has %+v", got)
	}
	was = again.word(t, memory.HoleEnd)
	if was < 1 {
		t.Errorf("it begins at %d", was)
	}
	again.start(t, t.Context())
	must(t, again.Resume(t.Context()))
	eventually(t, "the copy counts there", func() bool { return again.word(t, memory.HoleEnd) > was })
	if _, err := again.mem.Slice(memory.HoleEnd+2*memBlock, 1); err == nil {
		t.Error("it has more than the original")
	}

	other := blank(t, Config{MaxMemoryBytes: 512 * mib})
	if err := other.LoadState(s.sections); !errors.Is(err, ErrRestore) {
		t.Errorf("in a machine that can have more: %v", err)
	}
}

func TestWherePluggableMemoryLies(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct{ ram, most, at, size, block uint64 }{
		{512 * mib, 0, 0, 0, 0},
		{512 * mib, 512 * mib, 0, 0, 0},
		{512 * mib, 4 * gib, 4 * gib, 3584 * mib, memBlock},
		{500 * mib, 501 * mib, 4 * gib, 128 * mib, memBlock},
		{4 * gib, 5 * gib, 5 * gib, gib, memBlock},
		{4*gib + mib, 5 * gib, 6 * gib, gib, memBlock},
		{gib, 200 * gib, 4 * gib, 199 * gib, 2 * memBlock},
	} {
		at, block := (&Config{MemoryBytes: c.ram, MaxMemoryBytes: c.most}).pluggable()
		if uint64(at.GPA) != c.at || at.Size != c.size || block != c.block {
			t.Errorf("%d to %d MiB: %v+%d MiB in blocks of %d", c.ram/mib, c.most/mib, at.GPA, at.Size/mib, block)
		}
	}
	for _, c := range []Config{{MaxMemoryBytes: 15 * mib}, {MaxMemoryBytes: 256 * gib}, {MaxMemoryBytes: 254 * gib}, {MaxMemoryBytes: gib, HugePages: true}} {
		c.Kernel, c.MemoryBytes = "k", 16*mib
		if err := c.check(); !errors.Is(err, ErrConfig) {
			t.Errorf("%d MiB, huge pages %v: %v", c.MaxMemoryBytes/mib, c.HugePages, err)
		}
	}
}
