package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/memory"
)

const mb = 1 << 20

// ramOf is memory of n MiB as a machine lays it out: the hole is 3 to 4 GiB.
func ramOf(n uint64) []Region {
	if n <= 3072 {
		return []Region{{0, n * mb}}
	}
	return []Region{{0, 3072 * mb}, {4096 * mb, (n - 3072) * mb}}
}

func initrd(name string, size int) Initrd {
	b := bytes.Repeat([]byte(name[:1]), size)
	return Initrd{Name: name, R: bytes.NewReader(b), Size: int64(size)}
}

func mustLoad(t *testing.T, p Params) (*fakeRAM, Entry) {
	t.Helper()
	m := newRAM(t, p.RAM...)
	m.forbidden = append([]Region{legacyHole}, p.Reserved...)
	e, err := Load(m, p)
	if err != nil {
		t.Fatal(err)
	}
	return m, e
}

func TestKernelIsPlacedWhereItAsks(t *testing.T) {
	file := elfFile{}.bytes()
	for _, f := range [][]byte{file, bzFile{}.bytes()} {
		m, _ := mustLoad(t, Params{Kernel: mustOpen(t, f), RAM: ramOf(128)})
		if got := m.read(testBase, codeSize); !bytes.Equal(got, file[codeOff:codeOff+codeSize]) {
			t.Error("code differs")
		}
		if got := m.read(testBase+0x200000, 0x2000); !bytes.Equal(got[:0x1800], file[codeOff+codeSize:]) || !bytes.Equal(got[0x1800:], make([]byte, 0x800)) {
			t.Error("data differs, or its bss is not zero")
		}
	}
}

// TestZeroPagesAreNotTouched: a page that reads as zero costs the guest's
// host nothing as long as nobody writes it.
func TestZeroPagesAreNotTouched(t *testing.T) {
	p := goodProgs()
	p[1].fileSz, p[1].memSz = 64*mb, 64*mb // a bss that the file carries in full
	file := elfFile{progs: p, patch: func(b []byte) []byte { return append(b, make([]byte, 64*mb)...) }}.bytes()
	m, _ := mustLoad(t, Params{Kernel: mustOpen(t, bzFile{payload: pack("zstd", file)}.bytes()), RAM: ramOf(128)})
	if m.written > mb {
		t.Errorf("wrote %d bytes of a kernel that has %d bytes of data", m.written, codeSize+0x1800)
	}
	if !bytes.Equal(m.read(testBase+0x200000, 0x1800), file[codeOff+codeSize:codeOff+codeSize+0x1800]) {
		t.Error("data before the zeros differs")
	}
}

func TestInitrdGoesHighAndClear(t *testing.T) {
	k := mustOpen(t, bzFile{}.bytes()) // up to 19 MiB
	low := mustOpen(t, bzFile{patch: u32(offInitrdAddrMax, 0x37ffffff)}.bytes())
	for _, c := range []struct {
		name     string
		k        *Kernel
		ram      []Region
		reserved []Region
		size     int
		want     memory.GPA
	}{
		{"top of RAM", k, ramOf(128), nil, 3*mb + 1, 128*mb - 3*mb - 0x1000},
		{"page sized", k, ramOf(128), nil, 4096, 128*mb - 0x1000},
		{"one byte", k, ramOf(128), nil, 1, 128*mb - 0x1000},
		{"below 2 GiB", k, ramOf(3072), nil, mb, 2047 * mb},
		{"below 2 GiB of many", k, ramOf(8192), nil, mb, 2047 * mb},
		{"below the header's limit", low, ramOf(3072), nil, mb, 895 * mb},
		{"under a reserved range", k, ramOf(128), []Region{{100 * mb, 28 * mb}}, 3 * mb, 97 * mb},
		{"between reserved ranges", k, ramOf(128), []Region{{120 * mb, 7 * mb}, {100 * mb, 15 * mb}}, 3 * mb, 117 * mb},
		{"just fits above the kernel", k, ramOf(24), nil, 5 * mb, 19 * mb},
		{"below the kernel", k, ramOf(24), nil, 6 * mb, 10 * mb},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Params{Kernel: c.k, RAM: c.ram, Reserved: c.reserved, Initrds: []Initrd{initrd("x", c.size)}}
			m, e := mustLoad(t, p)
			mod := m.read(memory.GPA(le.Uint64(m.read(memory.GPA(e.RBX)+16, 8))), 16)
			if at, n := memory.GPA(le.Uint64(mod)), le.Uint64(mod[8:]); at != c.want || n != uint64(c.size) {
				t.Errorf("initramfs at %v of %d bytes, want %v of %d", at, n, c.want, c.size)
			}
			if got := m.read(c.want, 1); got[0] != 'x' {
				t.Error("its bytes are not there")
			}
		})
	}
}

func TestInitrdsAreJoinedAligned(t *testing.T) {
	m, e := mustLoad(t, Params{
		Kernel: mustOpen(t, elfFile{}.bytes()), RAM: ramOf(128), Protocol: Linux64,
		Initrds: []Initrd{initrd("aaa", 5), initrd("b", 0), initrd("ccc", 4), initrd("ddd", 3)},
	})
	zp := m.read(memory.GPA(e.RSI), zeroPageSize)
	at, n := le.Uint32(zp[offRamdiskImage:]), le.Uint32(zp[offRamdiskSize:])
	if got := m.read(memory.GPA(at), int(n)); string(got) != "aaaaa\x00\x00\x00ccccddd" {
		t.Errorf("joined to %q", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	bz := mustOpen(t, bzFile{}.bytes())
	noPVH := goodProgs()[:2]
	plain := mustOpen(t, elfFile{progs: noPVH}.bytes())
	lowProgs := goodProgs()
	lowProgs[0].va, lowProgs[1].va = 0, 0
	pvhOnly := mustOpen(t, elfFile{progs: lowProgs}.bytes())
	for _, c := range []struct {
		name string
		p    Params
		is   error
		want string // % stands for the kernel's path
	}{
		{
			"too small for the kernel",
			Params{Kernel: bz, RAM: ramOf(16)},
			ErrMemory,
			"kernel % occupies 0x1000000-0x1300000 and needs at least 19 MiB of memory, the guest has 16 MiB",
		},
		{
			"too small for both",
			Params{Kernel: bz, RAM: ramOf(16), Initrds: []Initrd{initrd("x", 5*mb)}},
			ErrMemory,
			"kernel % occupies 0x1000000-0x1300000 and needs at least 24 MiB of memory with its initramfs, the guest has 16 MiB",
		},
		{
			"too small for the initramfs",
			Params{Kernel: bz, RAM: ramOf(32), Initrds: []Initrd{initrd("x", 40*mb)}},
			ErrMemory,
			"kernel % with an initramfs of 40 MiB needs at least 59 MiB, the guest has 32 MiB",
		},
		{
			"no room but low memory",
			Params{Kernel: bz, RAM: ramOf(19), Reserved: []Region{{mb, 15 * mb}}, Initrds: []Initrd{initrd("x", 1)}},
			ErrMemory,
			"kernel % with an initramfs of 1 MiB needs at least 20 MiB, the guest has 19 MiB",
		},
		{
			"initramfs above its limit",
			Params{
				Kernel: mustOpen(t, bzFile{patch: u32(offInitrdAddrMax, 0x1ffffff)}.bytes()), RAM: ramOf(256),
				Initrds: []Initrd{initrd("x", 40*mb)},
			},
			ErrParams,
			"initramfs of 40 MiB does not fit between kernel % (up to 0x1300000) and 0x1ffffff, the highest address it takes",
		},
		{
			"command line too long",
			Params{Kernel: bz, RAM: ramOf(128), Cmdline: strings.Repeat("x", 2048)},
			ErrCmdline,
			"2048 bytes, but kernel % takes at most 2047",
		},
		{"NUL in the command line", Params{Kernel: bz, RAM: ramOf(128), Cmdline: "a\x00b"}, ErrCmdline, "NUL byte at position 1"},
		{"no kernel", Params{RAM: ramOf(128)}, ErrParams, "no kernel"},
		{"no RAM", Params{Kernel: bz}, ErrParams, "RAM must start at address 0"},
		{"RAM elsewhere", Params{Kernel: bz, RAM: []Region{{mb, 128 * mb}}}, ErrParams, "RAM must start at address 0"},
		{"RAM overlaps", Params{Kernel: bz, RAM: []Region{{0, 128 * mb}, {64 * mb, mb}}}, ErrParams, "RAM regions 0x0-0x8000000 and 0x4000000-0x4100000 overlap"},
		{"empty RAM", Params{Kernel: bz, RAM: []Region{{0, 0}}}, ErrParams, "RAM region at 0x0 has size 0x0"},
		{"RAM wraps", Params{Kernel: bz, RAM: []Region{{0, 128 * mb}, {1 << 63, 1 << 63}}}, ErrParams, "RAM region at 0x8000000000000000 has size 0x8000000000000000"},
		{
			"boot structures reserved",
			Params{Kernel: bz, RAM: ramOf(128), Reserved: []Region{{0x9f000, 0x1000}}},
			ErrParams,
			"reserved region 0x9f000-0xa0000 covers the boot structures below 0x9fc00",
		},
		{
			"kernel reserved",
			Params{Kernel: bz, RAM: ramOf(128), Reserved: []Region{{18 * mb, 0x1000}}},
			ErrParams,
			"kernel % occupies 0x1000000-0x1300000, which is partly reserved",
		},
		{"no PVH", Params{Kernel: plain, RAM: ramOf(128), Protocol: PVH}, ErrParams, "kernel % has no PVH entry (built without CONFIG_PVH); use linux64"},
		{"no 64-bit entry", Params{Kernel: pvhOnly, RAM: ramOf(128), Protocol: Linux64}, ErrParams, "kernel % has no 64-bit Linux entry; use pvh"},
		{"unknown protocol", Params{Kernel: bz, RAM: ramOf(128), Protocol: 9}, ErrParams, "unknown protocol Protocol(9)"},
		{"long seed", Params{Kernel: bz, RAM: ramOf(128), RNGSeed: make([]byte, 1025)}, ErrParams, "random seed of 1025 bytes, more than 1024"},
		{
			"huge initramfs",
			Params{Kernel: bz, RAM: ramOf(8192), Initrds: []Initrd{{"x", strings.NewReader(""), 1 << 32}}},
			ErrParams,
			"initramfs x has size 4294967296; less than 4 GiB is possible",
		},
		{
			"many initramfs",
			Params{Kernel: bz, RAM: ramOf(8192), Initrds: []Initrd{{"x", strings.NewReader(""), 3 << 30}, {"y", strings.NewReader(""), 3 << 30}}},
			ErrParams,
			"initramfs archives of 6144 MiB in all; less than 4 GiB is possible",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(newRAM(t, c.p.RAM...), c.p)
			want := c.is.Error() + ": " + c.want
			if c.p.Kernel != nil {
				want = strings.ReplaceAll(want, "%", c.p.Kernel.Path)
			}
			if !errors.Is(err, c.is) || err.Error() != want {
				t.Errorf("error\n%v, want\n%v", err, want)
			}
		})
	}
	t.Run("initramfs shrank", func(t *testing.T) {
		p := Params{Kernel: bz, RAM: ramOf(128), Initrds: []Initrd{{"i.img", strings.NewReader("short"), 100}}}
		if _, err := Load(newRAM(t, p.RAM...), p); err == nil || err.Error() != "initramfs i.img: unexpected EOF" {
			t.Errorf("error %v", err)
		}
	})
}

func TestMemoryMapHasHoleAndReserved(t *testing.T) {
	ecam := Region{0xe8000000, 256 * mb}
	m, e := mustLoad(t, Params{
		Kernel: mustOpen(t, elfFile{}.bytes()), RAM: ramOf(4096), Protocol: Linux64,
		Reserved: []Region{ecam, {0x9fc00, 0x400}, {2000 * mb, mb}},
	})
	zp := m.read(memory.GPA(e.RSI), zeroPageSize)
	var got []string
	for i := range int(zp[offE820Entries]) {
		b := zp[offE820Table+20*i:]
		got = append(got, fmt.Sprintf("%#x-%#x %d", le.Uint64(b), le.Uint64(b)+le.Uint64(b[8:]), le.Uint32(b[16:])))
	}
	want := []string{
		"0x0-0x9fc00 1", "0x9fc00-0x100000 2", "0x100000-0x7d000000 1", "0x7d000000-0x7d100000 2",
		"0x7d100000-0xc0000000 1", "0xe8000000-0xf8000000 2", "0x100000000-0x140000000 1",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("memory map\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var many []Region
	for i := range 70 {
		many = append(many, Region{memory.GPA(64+2*i) * mb, mb})
	}
	if _, err := memoryMap(ramOf(1024), many); !errors.Is(err, ErrParams) {
		t.Errorf("141 entries: error %v", err)
	}
}

func TestPVHStartInfo(t *testing.T) {
	k := mustOpen(t, elfFile{}.bytes())
	m, e := mustLoad(t, Params{Kernel: k, RAM: ramOf(4096), Cmdline: "console=hvc0", RSDP: 0xe0000, RNGSeed: []byte("ignored")})
	if e.Protocol != PVH || e.RIP != testPVH || e.CR0 != 0x11 || e.CR3 != 0 || e.CR4 != 0 || e.EFER != 0 || e.RFLAGS != 2 {
		t.Errorf("entry %+v", e)
	}
	flat := Segment{Selector: 0x10, Limit: 0xffffffff, Type: 0xb, S: 1, Present: 1, DB: 1, G: 1}
	if e.CS != flat {
		t.Errorf("CS %+v, want %+v", e.CS, flat)
	}
	s := m.read(memory.GPA(e.RBX), 56)
	if le.Uint32(s) != 0x336ec578 || le.Uint32(s[4:]) != 1 || le.Uint32(s[8:]) != 0 {
		t.Errorf("start_info % x", s)
	}
	if le.Uint32(s[12:]) != 0 || le.Uint64(s[16:]) != 0 {
		t.Error("a module without an initramfs")
	}
	if c := m.read(memory.GPA(le.Uint64(s[24:])), 13); string(c) != "console=hvc0\x00" {
		t.Errorf("command line %q", c)
	}
	if got := le.Uint64(s[32:]); got != 0xe0000 {
		t.Errorf("RSDP %#x", got)
	}
	mm := m.read(memory.GPA(le.Uint64(s[40:])), 24*4)
	if n := le.Uint32(s[48:]); n != 4 || le.Uint64(mm[72:]) != 4096*mb || le.Uint64(mm[80:]) != 1024*mb || le.Uint32(mm[88:]) != 1 {
		t.Errorf("memory map of %d entries: % x", n, mm)
	}
}

func TestLinux64BootParams(t *testing.T) {
	seed := bytes.Repeat([]byte{0xab}, 32)
	for _, c := range []struct {
		name    string
		file    []byte
		version uint16
		init    uint32
	}{{"bzImage", bzFile{patch: u32(offSetupData, 0x1234)}.bytes(), 0x20f, 0x300000}, {"vmlinux", elfFile{}.bytes(), 0x20f, 0}} {
		t.Run(c.name, func(t *testing.T) {
			m, e := mustLoad(t, Params{Kernel: mustOpen(t, c.file), RAM: ramOf(128), Protocol: Linux64, Cmdline: "quiet", RSDP: 0xe0040, RNGSeed: seed})
			zp := m.read(memory.GPA(e.RSI), zeroPageSize)
			if e.RIP != testBase || e.CR0 != 0x80000011 || e.CR4 != 0x20 || e.EFER != 0x500 || e.CS.L != 1 || e.CS.DB != 0 || e.CS.Selector != 0x10 || e.Data.Selector != 0x18 {
				t.Errorf("entry %+v", e)
			}
			if le.Uint16(zp[offBootFlag:]) != 0xaa55 || string(zp[offHdrS:offHdrS+4]) != "HdrS" || le.Uint16(zp[offProtocol:]) != c.version {
				t.Error("no setup header")
			}
			if zp[offTypeOfLoader] != 0xff || zp[offLoadFlags]&1 != 1 || le.Uint32(zp[offInitSize:]) != c.init {
				t.Errorf("loader %#x flags %#x init_size %#x", zp[offTypeOfLoader], zp[offLoadFlags], le.Uint32(zp[offInitSize:]))
			}
			if got := le.Uint64(zp[0x70:]); got != 0xe0040 {
				t.Errorf("RSDP %#x", got)
			}
			if c := m.read(memory.GPA(le.Uint32(zp[offCmdLinePtr:])), 6); string(c) != "quiet\x00" {
				t.Errorf("command line %q", c)
			}
			sd := m.read(memory.GPA(le.Uint64(zp[offSetupData:])), 16+32)
			if le.Uint64(sd) != 0 || le.Uint32(sd[8:]) != 9 || le.Uint32(sd[12:]) != 32 || !bytes.Equal(sd[16:], seed) {
				t.Errorf("setup_data % x", sd)
			}
			for _, hole := range [][2]int{{0, 0x70}, {0x78, 0x1e8}, {offSetupMax, offE820Table}} {
				if !bytes.Equal(zp[hole[0]:hole[1]], make([]byte, hole[1]-hole[0])) {
					t.Errorf("boot_params %#x-%#x is not zero", hole[0], hole[1])
				}
			}
		})
	}
	m, e := mustLoad(t, Params{Kernel: mustOpen(t, bzFile{patch: u32(offSetupData, 0x1234)}.bytes()), RAM: ramOf(128), Protocol: Linux64})
	if got := le.Uint64(m.read(memory.GPA(e.RSI)+offSetupData, 8)); got != 0 {
		t.Errorf("setup_data %#x was taken from the file", got)
	}
}

// TestIdentityMapTranslates walks the page tables for addresses below 4 GiB.
func TestIdentityMapTranslates(t *testing.T) {
	m, e := mustLoad(t, Params{Kernel: mustOpen(t, elfFile{}.bytes()), RAM: ramOf(128), Protocol: Linux64})
	entry := func(table uint64, index uint64) uint64 {
		return le.Uint64(m.read(memory.GPA(table&^0xfff+8*index), 8))
	}
	for _, va := range []uint64{0, 0x7000, testBase, 0x3fffffff, 0x40000000, 0xffffffff} {
		pml4 := entry(e.CR3, va>>39&511)
		pdpt := entry(pml4, va>>30&511)
		pd := entry(pdpt, va>>21&511)
		if pml4&3 != 3 || pdpt&3 != 3 || pd&0x83 != 0x83 || pd&^0x1fffff|va&0x1fffff != va {
			t.Errorf("%#x: entries %#x %#x %#x", va, pml4, pdpt, pd)
		}
	}
	if entry(e.CR3, 1) != 0 || entry(entry(e.CR3, 0), 4) != 0 {
		t.Error("more than 4 GiB is mapped")
	}
}

func TestGDTMatchesSegments(t *testing.T) {
	k := mustOpen(t, elfFile{}.bytes())
	for p, want := range map[Protocol][]uint64{
		PVH:     {0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067, 0},
		Linux64: {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067, 0},
	} {
		m, e := mustLoad(t, Params{Kernel: k, RAM: ramOf(128), Protocol: p})
		var b []byte
		for _, d := range want {
			b = binary.LittleEndian.AppendUint64(b, d)
		}
		if got := m.read(memory.GPA(e.GDT.Base), int(e.GDT.Limit)+1); !bytes.Equal(got, b) {
			t.Errorf("%v: GDT % x, want % x", p, got, b)
		}
	}
}

func TestAutoPrefersPVH(t *testing.T) {
	for _, c := range []struct {
		progs []progHeader
		want  Protocol
	}{{goodProgs(), PVH}, {goodProgs()[:2], Linux64}} {
		if _, e := mustLoad(t, Params{Kernel: mustOpen(t, elfFile{progs: c.progs}.bytes()), RAM: ramOf(128)}); e.Protocol != c.want {
			t.Errorf("chose %v, want %v", e.Protocol, c.want)
		}
	}
}

func TestLongestCmdlineIsTaken(t *testing.T) {
	k := mustOpen(t, bzFile{patch: u32(offCmdlineSize, 1<<20)}.bytes())
	if k.CmdlineMax != cmdlineRoom-1 {
		t.Fatalf("limit %d", k.CmdlineMax)
	}
	s := strings.Repeat("y", k.CmdlineMax)
	m, _ := mustLoad(t, Params{Kernel: k, RAM: ramOf(128), Cmdline: s, Protocol: Linux64, RNGSeed: []byte("seed")})
	if got := m.read(cmdlineAddr, cmdlineRoom); string(got) != s+"\x00" {
		t.Error("the command line is not whole")
	}
}

var _ Memory = (*memory.Guest)(nil)
