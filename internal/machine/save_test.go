package machine

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/vcpu"
	"github.com/hvctl/hvctl/virtio"
)

// Where the two processors of pair count.
const (
	apCodeAt  = 0x8000
	apCountAt = 0x9000
	secondAt  = counterAt + 8
)

// pair starts the other processors by INIT and SIPI, then counts in EAX and
// stores it in two places, one after the other.
var pair = slices.Concat(
	[]byte{0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x0c, 0x00}, // mov [ICR], INIT to all others
	[]byte{0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x08, 0x46, 0x0c, 0x00}, // mov [ICR], SIPI, vector 8
	[]byte{0x31, 0xc0}, // xor eax, eax
	[]byte{
		0x40,                         // inc eax
		0xa3, 0x00, 0x00, 0x18, 0x00, // mov [counterAt], eax
		0xa3, 0x08, 0x00, 0x18, 0x00, // mov [secondAt], eax
		0xeb, 0xf3, // jmp back
	})

// apCode counts in BX and stores it, in real mode.
var apCode = []byte{
	0x31, 0xdb, 0x8e, 0xdb, // xor bx, bx; mov ds, bx
	0x43,                   // inc bx
	0x89, 0x1e, 0x00, 0x90, // mov [apCountAt], bx
	0xeb, 0xf9, // jmp back
}

func (m *Machine) word(t testing.TB, at memory.GPA) uint32 {
	t.Helper()
	var b [4]byte
	if err := m.mem.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(b[:])
}

// saved is a machine on disk, so to speak.
type saved struct {
	ram      [][]byte
	sections []state.Section
}

// save pauses m and copies what there is of it.
func (m *Machine) save(t testing.TB) saved {
	t.Helper()
	must(t, m.Pause(t.Context()))
	sections, err := m.SaveState()
	must(t, err)
	s := saved{sections: sections}
	for _, r := range m.Regions() {
		b := r.Bytes
		if r.Pluggable() { // no test has more there
			b = b[:4*memBlock]
		}
		s.ram = append(s.ram, bytes.Clone(b))
	}
	return s
}

// blank is a machine to restore one of c into.
func blank(t testing.TB, c Config) *Machine {
	t.Helper()
	if c.MemoryBytes == 0 {
		c.MemoryBytes = 16 << 20
	}
	if c.Restore == nil {
		c.Restore = &Restore{}
	}
	c.Kernel = ""
	m, err := New(c)
	must(t, err)
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *Machine) restore(t testing.TB, s saved) {
	t.Helper()
	for i, r := range m.Regions() {
		copy(r.Bytes, s.ram[i])
	}
	must(t, m.LoadState(s.sections))
}

func TestAGuestGoesOnExactlyInAnotherMachine(t *testing.T) {
	for _, tr := range []Transport{MMIO, PCI} {
		t.Run(string(tr), func(t *testing.T) {
			c := func() Config {
				return Config{
					CPUs: 2, Transport: tr, SerialOut: &bytes.Buffer{},
					Devices: []Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}},
				}
			}
			m := newMachine(t, c(), pair...)
			must(t, m.mem.WriteAt(apCode, apCodeAt))
			m.start(t, t.Context())
			for hop := range 4 {
				a, b := m.word(t, counterAt), m.word(t, apCountAt)
				eventually(t, "both processors count", func() bool {
					return m.word(t, counterAt) != a && m.word(t, apCountAt) != b
				})
				s := m.save(t)
				var regs [2]kvm.Regs
				for i, cpu := range m.cpus {
					must(t, cpu.Do(func(c *kvm.VCPU) (err error) { regs[i], err = c.Regs(); return err }))
				}
				n := blank(t, c())
				n.restore(t, s)
				for i, cpu := range n.cpus {
					must(t, cpu.Do(func(c *kvm.VCPU) error {
						r, err := c.Regs()
						if r != regs[i] {
							t.Errorf("hop %d, vCPU %d: registers %+v, want %+v", hop, i, r, regs[i])
						}
						return err
					}))
				}
				if hop%2 == 0 { // either order of Run and Resume is right
					must(t, n.Resume(t.Context()))
					n.start(t, t.Context())
				} else {
					n.start(t, t.Context())
					eventually(t, "Run has begun", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.entered })
					must(t, n.Resume(t.Context()))
				}
				first, second := n.word(t, counterAt), n.word(t, secondAt)
				eventually(t, "the restored guest counts", func() bool { return n.word(t, counterAt) > first+2 })
				must(t, n.Pause(t.Context()))
				if a, b := n.word(t, counterAt), n.word(t, secondAt); a-b > 1 || a <= first || b < second {
					t.Fatalf("hop %d: counted to %d and %d after %d and %d", hop, a, b, first, second)
				}
				must(t, n.Resume(t.Context()))
				// The one that was saved goes on, too.
				old := m.word(t, counterAt)
				must(t, m.Resume(t.Context()))
				eventually(t, "the saved guest counts", func() bool { return m.word(t, counterAt) != old })
				must(t, m.Pause(t.Context())) // it would only take time from the others
				m = n
			}
		})
	}
}

func TestSavingNeedsAPausedMachine(t *testing.T) {
	m := newMachine(t, Config{}, spin...)
	ends := m.start(t, t.Context())
	if _, err := m.SaveState(); !errors.Is(err, ErrNotPaused) {
		t.Errorf("running: %v", err)
	}
	if err := m.LoadState(nil); !errors.Is(err, ErrRestore) {
		t.Errorf("LoadState of a booted machine: %v", err)
	}
	must(t, m.Pause(t.Context()))
	m.finish(End{Reason: PowerOff})
	<-ends
	if _, err := m.SaveState(); !errors.Is(err, ErrEnded) {
		t.Errorf("ended: %v", err)
	}
	n := blank(t, Config{})
	if err := n.Resume(t.Context()); !errors.Is(err, ErrRestore) {
		t.Errorf("Resume of an empty machine: %v", err)
	}
	if _, err := n.SaveState(); !errors.Is(err, ErrRestore) {
		t.Errorf("SaveState of an empty machine: %v", err)
	}
}

// ring drives the queue of an entropy device on MMIO as a driver would, from
// outside the guest.
type ring struct {
	t testing.TB
	m *Machine
}

const ringSize = 8

func (r ring) reg(off, v uint32) {
	r.m.mmio.Write(uint64(virtioMMIOBase)+uint64(off), binary.LittleEndian.AppendUint32(nil, v))
}

func (r ring) setUp() {
	for _, w := range [][2]uint32{
		{0x70, 0}, {0x70, 1}, {0x70, 3}, {0x24, 1}, {0x20, 1}, {0x70, 11}, // VERSION_1, FEATURES_OK
		{0x30, 0}, {0x38, ringSize}, {0x80, 0x200000}, {0x90, 0x201000}, {0xa0, 0x202000}, {0x44, 1}, {0x70, 15},
	} {
		r.reg(w[0], w[1])
	}
}

// offer makes n more buffers available; the driver does not ring.
func (r ring) offer(n int) {
	idx := uint16(r.m.word(r.t, 0x201000) >> 16)
	for range n {
		slot := uint64(idx % ringSize)
		d := binary.LittleEndian.AppendUint64(nil, 0x300000+slot*64)
		d = binary.LittleEndian.AppendUint32(d, 64)
		d = append(d, 2, 0, 0, 0) // WRITE
		must(r.t, r.m.mem.WriteAt(d, memory.GPA(0x200000+slot*16)))
		must(r.t, r.m.mem.WriteAt([]byte{byte(slot), 0}, memory.GPA(0x201004+slot*2)))
		idx++
	}
	must(r.t, r.m.mem.StoreUint16(0x201002, idx))
}

func (r ring) used() uint16 {
	n, err := r.m.mem.LoadUint16(0x202002)
	must(r.t, err)
	return n
}

func TestARestoredDeviceServesWhatItsDriverHadOffered(t *testing.T) {
	c := func() Config { return Config{Devices: []Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}}} }
	m := newMachine(t, c(), spin...)
	m.start(t, t.Context())
	r := ring{t, m}
	r.setUp()
	r.offer(3)
	r.reg(0x50, 0) // doorbell
	eventually(t, "three buffers are used", func() bool { return r.used() == 3 })
	must(t, m.Pause(t.Context()))
	r.offer(4) // while paused: the ring is full of work and nobody rang
	s := m.save(t)

	n := blank(t, c())
	n.restore(t, s)
	if got := (ring{t, n}).used(); got != 3 {
		t.Fatalf("%d buffers used before Resume", got)
	}
	n.start(t, t.Context())
	must(t, n.Resume(t.Context()))
	eventually(t, "the others are used", func() bool { return (ring{t, n}).used() == 7 })
	b := make([]byte, 64)
	must(t, n.mem.ReadAt(b, 0x300000+6*64))
	if bytes.Equal(b, make([]byte, 64)) {
		t.Error("used without a byte written")
	}
	if got := n.Counters()["rng0.interrupts_total"]; got == 0 {
		t.Errorf("no interrupt after a restore: %v", n.Counters())
	}
	n2 := ring{t, n}
	n2.offer(1)
	n2.reg(0x50, 0)
	eventually(t, "the doorbell works", func() bool { return n2.used() == 8 })
}

// writer stores to pages 0x300 to 0x302, then counts.
var writer = slices.Concat(
	[]byte{0xc6, 0x05, 0x10, 0x00, 0x30, 0x00, 1}, // mov byte [0x300010], 1
	[]byte{0xc6, 0x05, 0x10, 0x10, 0x30, 0x00, 1},
	[]byte{0xc6, 0x05, 0xff, 0x2f, 0x30, 0x00, 1},
	spin)

func pages(bitmap []uint64) (out []int) {
	for w, v := range bitmap {
		for b := range 64 {
			if v>>b&1 != 0 {
				out = append(out, 64*w+b)
			}
		}
	}
	return out
}

func TestTheDirtyLogHasTheGuestsWritesAndOurs(t *testing.T) {
	m := newMachine(t, Config{}, writer...)
	bitmap := make([]uint64, kvm.DirtyBitmapLen(16<<20))
	if err := m.FetchDirty(0, bitmap); !errors.Is(err, ErrDirtyLog) {
		t.Errorf("before it was started: %v", err)
	}
	must(t, m.mem.WriteAt([]byte{1}, 0x700000)) // before the log
	must(t, m.StartDirtyLog())
	must(t, m.FetchDirty(0, bitmap))
	if got := pages(bitmap); len(got) != 0 {
		t.Errorf("a new log has %#x", got)
	}
	m.start(t, t.Context())
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
	must(t, m.mem.WriteAt([]byte{1}, 0x500123))
	must(t, m.Pause(t.Context()))
	bitmap[len(bitmap)-1] = ^uint64(0) // overwritten
	must(t, m.FetchDirty(0, bitmap))
	want := []int{0x100, 0x180, 0x300, 0x301, 0x302, 0x500} // 0x100: the code, mapped at its first read
	got := pages(bitmap)
	for _, p := range want[1:] {
		if !slices.Contains(got, p) {
			t.Errorf("page %#x is missing in %#x", p, got)
		}
	}
	for _, p := range got {
		if !slices.Contains(want, p) {
			t.Errorf("page %#x was not written", p)
		}
	}
	must(t, m.Resume(t.Context()))
	before := m.counted(t)
	eventually(t, "the guest counts on", func() bool { return m.counted(t) > before })
	must(t, m.FetchDirty(0, bitmap))
	if got := pages(bitmap); !slices.Equal(got, []int{0x180}) {
		t.Errorf("second log %#x, want the counter's page alone", got)
	}
	must(t, m.StopDirtyLog())
	must(t, m.StopDirtyLog())
	if err := m.FetchDirty(0, bitmap); !errors.Is(err, ErrDirtyLog) {
		t.Errorf("after it was stopped: %v", err)
	}
	before = m.counted(t)
	eventually(t, "the guest counts without a log", func() bool { return m.counted(t) > before })
}

func TestClocksGoOnOrFollow(t *testing.T) {
	m := newMachine(t, Config{CPUs: 2}, spin...)
	m.start(t, t.Context())
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
	s := m.save(t)
	tsc := func(m *Machine) (out [2]uint64, offs [2]uint64) {
		for i, c := range m.cpus {
			must(t, c.Do(func(c *kvm.VCPU) error {
				e := []kvm.MSREntry{{Index: kvm.MSRTSC}}
				if _, err := c.MSRs(e); err != nil {
					return err
				}
				out[i] = e[0].Data
				if c.HasTSCOffset() {
					var err error
					offs[i], err = c.TSCOffset()
					return err
				}
				return nil
			}))
		}
		return out, offs
	}
	before, beforeOffs := tsc(m)
	clockThen, err := m.vm.Clock()
	must(t, err)
	// Let an hour pass between save and load.
	old := changed(t, s.sections, "clock", func(v map[string]any) {
		n, _ := v["realtime_ns"].(json.Number).Int64()
		v["realtime_ns"] = n - int64(time.Hour)
	})
	for _, tc := range []struct {
		name     string
		sections []state.Section
		follow   bool
		least    time.Duration
		most     time.Duration
	}{
		{"a copy goes on", s.sections, false, 0, 0},
		{"a copy of an hour ago goes on", old, false, 0, 0},
		{"a guest that moved follows", s.sections, true, time.Microsecond, MaxClockJump},
		{"a guest that moved an hour ago lags", old, true, MaxClockJump, MaxClockJump},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := blank(t, Config{CPUs: 2, Restore: &Restore{FollowTime: tc.follow}})
			s.sections = tc.sections
			n.restore(t, s)
			use := n.Clock()
			if use.Advanced < tc.least || use.Advanced > tc.most {
				t.Errorf("advanced by %v, want %v to %v", use.Advanced, tc.least, tc.most)
			}
			now, err := n.vm.Clock()
			must(t, err)
			// Both go on from the load, and the machine was just loaded.
			if d := time.Duration(now.Clock - clockThen.Clock - uint64(use.Advanced)); d < -time.Minute || d > time.Minute {
				t.Errorf("kvmclock is %v off", d)
			}
			after, offs := tsc(n)
			if offs[0]-offs[1] != beforeOffs[0]-beforeOffs[1] {
				t.Errorf("TSC offsets %d apart, were %d", offs[0]-offs[1], beforeOffs[0]-beforeOffs[1])
			}
			var khz uint32
			must(t, n.cpus[0].Do(func(c *kvm.VCPU) error { khz, _ = c.TSCKHz(); return nil }))
			if khz == 0 || beforeOffs[0] == 0 {
				return
			}
			moved := time.Duration(float64(int64(after[0]-before[0])) / float64(khz) * 1e6)
			if d := moved - use.Advanced; d < -time.Minute || d > time.Minute {
				t.Errorf("the TSC moved by %v, want %v", moved, use.Advanced)
			}
		})
	}
}

func TestANewGenerationIsTold(t *testing.T) {
	m := newMachine(t, Config{}, spin...)
	var id, again [16]byte
	must(t, m.mem.ReadAt(id[:], vmGenIDAddr))
	if id == again {
		t.Error("a booted machine has no generation ID")
	}
	s := m.save(t)
	n := blank(t, Config{})
	n.restore(t, s)
	must(t, n.mem.ReadAt(again[:], vmGenIDAddr))
	if id != again {
		t.Error("a restore alone changed the generation")
	}
	must(t, n.NewGeneration())
	must(t, n.mem.ReadAt(again[:], vmGenIDAddr))
	if id == again || n.power.events.Load() == 0 {
		t.Errorf("generation %x after %x, events %#x", again, id, n.power.events.Load())
	}
}

// changed is sections with the payload of one edited and its checksum right.
func changed(t testing.TB, in []state.Section, path string, edit func(map[string]any)) []state.Section {
	t.Helper()
	out := slices.Clone(in)
	for i := range out {
		if out[i].Path != path {
			continue
		}
		var v map[string]any
		d := json.NewDecoder(bytes.NewReader(out[i].Payload))
		d.UseNumber()
		must(t, d.Decode(&v))
		edit(v)
		b, err := json.Marshal(v)
		must(t, err)
		out[i] = sealed(path, out[i].Version, b)
		return out
	}
	t.Fatalf("no section %s", path)
	return nil
}

func sealed(path string, version uint32, payload []byte) state.Section {
	return state.Section{Path: path, Version: version, Payload: payload, CRC: crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli))}
}

func TestSectionsThatDoNotFitAreRefused(t *testing.T) {
	c := func() Config {
		return Config{SerialOut: &bytes.Buffer{}, Transport: PCI, Devices: []Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}}}
	}
	m := newMachine(t, c(), spin...)
	s := m.save(t).sections
	without := func(path string) []state.Section {
		return slices.DeleteFunc(slices.Clone(s), func(x state.Section) bool { return x.Path == path })
	}
	edit := func(path string, f func(map[string]any)) []state.Section { return changed(t, s, path, f) }
	for _, tc := range []struct {
		name     string
		sections []state.Section
		says     string
		is       error
	}{
		{"none", nil, "machine", nil},
		{"one twice", append(slices.Clone(s), s[0]), "twice", nil},
		{"one too many", append(slices.Clone(s), sealed("vcpu/1", 1, []byte("{}"))), "vcpu/1", nil},
		{"no clock", without("clock"), "clock", nil},
		{"newer", append(without("power"), sealed("power", 2, []byte("{}"))), "version 2", state.ErrVersion},
		{"flipped bit", func() []state.Section {
			x := slices.Clone(s)
			x[2].Payload = bytes.Clone(x[2].Payload)
			x[2].Payload[100] ^= 1
			return x
		}(), "checksum", state.ErrCorrupt},
		{"more memory", edit("machine", func(v map[string]any) { v["memory_bytes"] = 32 << 20 }), "32 MiB", nil},
		{"more processors", edit("machine", func(v map[string]any) { v["cpus"] = 2 }), "2 vCPUs", nil},
		{"other transport", edit("machine", func(v map[string]any) { v["transport"] = "mmio" }), "mmio", nil},
		{"other devices", edit("machine", func(v map[string]any) { v["devices"] = []any{} }), "devices", nil},
		{"no serial port", edit("machine", func(v map[string]any) { v["serial"] = false }), "serial", nil},
		{"clock in the far future", edit("clock", func(v map[string]any) { v["ns"] = uint64(1) << 63 }), "kvmclock", nil},
		{"another CPU", edit("vcpu/0", func(v map[string]any) {
			e := v["cpuid"].([]any)[0].(map[string]any)
			e["EBX"] = 1
		}), "CPU", vcpu.ErrState},
		{"queue outside RAM", edit("virtio/0/transport", func(v map[string]any) {
			core := v["core"].(map[string]any)
			core["status"] = 15
			core["driver_features"] = uint64(1) << 32
			q := core["queues"].([]any)[0].(map[string]any)
			q["enabled"], q["desc"] = true, uint64(1)<<50
		}), "virtio/0/transport", virtio.ErrState},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := blank(t, c())
			err := n.LoadState(tc.sections)
			if !errors.Is(err, ErrRestore) || !strings.Contains(err.Error(), tc.says) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("%v; want %q", err, tc.says)
			}
			if err := n.Resume(t.Context()); !errors.Is(err, ErrRestore) {
				t.Errorf("Resume after that: %v", err)
			}
		})
	}
}

// FuzzLoadState puts anything into one section of a real machine: it is loaded,
// or refused with an error of ours; it never panics.
func FuzzLoadState(f *testing.F) {
	c := func() Config {
		return Config{SerialOut: &bytes.Buffer{}, Transport: PCI, Devices: []Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}, {Kind: "vsock", Args: virtio.Args{ID: "vsock"}}}}
	}
	m := newMachine(f, c(), spin...)
	s := m.save(f).sections
	for i, sec := range s {
		if len(sec.Payload) < 4096 {
			f.Add(uint8(i), []byte(sec.Payload))
		}
	}
	f.Add(uint8(2), []byte(`{"cpuid":[{}],"sregs":{},"lapic":""}`))
	f.Fuzz(func(t *testing.T, which uint8, payload []byte) {
		x := slices.Clone(s)
		i := int(which) % len(x)
		x[i] = sealed(x[i].Path, x[i].Version, payload)
		n := blank(t, c())
		err := n.LoadState(x)
		if err != nil && !errors.Is(err, ErrRestore) {
			t.Errorf("refused with %v", err)
		}
	})
}

func BenchmarkSaveAndLoad(b *testing.B) {
	for _, cpus := range []int{1, 2} {
		b.Run(fmt.Sprint(cpus, " vCPUs"), func(b *testing.B) {
			c := Config{CPUs: cpus, Devices: []Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}, {Kind: "vsock", Args: virtio.Args{ID: "vsock"}}}}
			m := newMachine(b, c, spin...)
			must(b, m.Pause(b.Context()))
			var save, load time.Duration
			var size int
			for b.Loop() {
				t0 := time.Now()
				sections, err := m.SaveState()
				must(b, err)
				t1 := time.Now()
				b.StopTimer()
				n := blank(b, c)
				b.StartTimer()
				t2 := time.Now()
				must(b, n.LoadState(sections))
				load += time.Since(t2)
				save += t1.Sub(t0)
				size = 0
				for _, s := range sections {
					size += len(s.Payload)
				}
				b.StopTimer()
				must(b, n.Close())
				b.StartTimer()
			}
			b.ReportMetric(float64(save.Microseconds())/float64(b.N), "save-us")
			b.ReportMetric(float64(load.Microseconds())/float64(b.N), "load-us")
			b.ReportMetric(float64(size), "state-bytes")
		})
	}
}
