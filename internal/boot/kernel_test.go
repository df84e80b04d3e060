package boot

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

var update = flag.Bool("update", false, "remake the files in testdata (needs xz and bzip2)")

func u16(at int, v uint16) func([]byte) []byte {
	return func(b []byte) []byte { le.PutUint16(b[at:], v); return b }
}

func u32(at int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte { le.PutUint32(b[at:], v); return b }
}

func u8(at int, v byte) func([]byte) []byte {
	return func(b []byte) []byte { b[at] = v; return b }
}

func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }

// withProg is a good kernel whose program header i is changed.
func withProg(i int, change func(*progHeader)) []byte {
	p := goodProgs()
	change(&p[i])
	return elfFile{progs: p}.bytes()
}

// badKernels are refused with exactly this message after "unusable kernel: ".
var badKernels = []struct {
	name string
	file []byte
	want string
}{
	{"empty", nil, "the file is empty"},
	{"text", []byte("#!/bin/sh\n"), "neither a vmlinux (ELF) nor a bzImage"},
	{"gzip", []byte("\x1f\x8b\x08\x00"), "a gzip file; unpack it first (or is it an initramfs?)"},
	{"initramfs", []byte("07070100000000"), "a cpio archive; is it the initramfs?"},
	{"arm64 image", append(make([]byte, 0x38), "ARM\x64"...), "an ARM64 kernel image; a 64-bit x86 kernel is needed"},

	{"ELF header cut", elfFile{patch: cut(20)}.bytes(), "truncated: 64 bytes wanted at offset 0x0, file ends at 0x14"},
	{"ELF table cut", elfFile{patch: cut(100)}.bytes(), "truncated: 168 bytes wanted at offset 0x40, file ends at 0x64"},
	{"ELF code cut", elfFile{patch: cut(0x2000)}.bytes(), "truncated: segment at 0x1000000 ends at offset 0x4000, file ends at 0x2000"},
	{"32-bit", elfFile{patch: u8(4, 1)}.bytes(), "32-bit ELF; a 64-bit x86 kernel is needed"},
	{"class 3", elfFile{patch: u8(4, 3)}.bytes(), "ELF class 3 is unknown"},
	{"big-endian", elfFile{patch: u8(5, 2)}.bytes(), "big-endian ELF; a 64-bit x86 kernel is needed"},
	{"encoding 9", elfFile{patch: u8(5, 9)}.bytes(), "ELF data encoding 9 version 1 is unknown"},
	{"ARM64", elfFile{patch: u16(18, 183)}.bytes(), "built for ARM64; a 64-bit x86 kernel is needed"},
	{"unknown machine", elfFile{patch: u16(18, 999)}.bytes(), "built for machine 999; a 64-bit x86 kernel is needed"},
	{"module", elfFile{patch: u16(16, etREL)}.bytes(), "an object file or kernel module, not a vmlinux"},
	{"PIE", elfFile{patch: u16(16, etDYN)}.bytes(), "a shared library or position-independent program, not a vmlinux"},
	{"type 77", elfFile{patch: u16(16, 77)}.bytes(), "an ELF file of type 77, not a vmlinux"},
	{"header size", elfFile{patch: u16(54, 32)}.bytes(), "ELF program headers are 32 bytes each, want 56"},
	{"no headers", elfFile{patch: u16(56, 0)}.bytes(), "ELF has 0 program headers, want 1 to 64"},
	{"many headers", elfFile{patch: u16(56, 65)}.bytes(), "ELF has 65 program headers, want 1 to 64"},
	{"headers far away", elfFile{patch: u32(36, 1<<31)}.bytes(), "truncated: ELF program headers at 0x8000000000000040, file ends at 0x5800"},
	{"dynamic program", withProg(2, func(p *progHeader) { p.kind = ptInterp }), "an ordinary program (it names a dynamic linker), not a vmlinux"},
	{
		"static program", elfFile{progs: []progHeader{{ptLoad, codeOff, 0x400000, 0x400000, 0x1000, 0x1000}}, entry: 0x400000}.bytes(),
		"no usable entry point: entry 0x400000 is not a kernel's and there is no PVH note",
	},
	{"nothing to load", elfFile{progs: []progHeader{{ptLoad, codeOff, 0, testBase, 0, 0}}}.bytes(), "ELF has nothing to load"},
	{"file over memory", withProg(0, func(p *progHeader) { p.memSz-- }), "segment at 0x1000000 has 0x3000 bytes in the file but 0x2fff in memory"},
	{"offset wraps", withProg(0, func(p *progHeader) { p.off = 1<<64 - 0x1000 }), "truncated: segment at 0x1000000 ends at offset 0xffffffffffffffff, file ends at 0x5800"},
	{"below 1 MiB", withProg(0, func(p *progHeader) { p.pa = 0x7000 }), "segment at 0x7000 lies below 1 MiB"},
	{"above 4 GiB", withProg(1, func(p *progHeader) { p.pa = 1 << 32 }), "segment at 0x100000000 of 0x40000 bytes does not fit below 4 GiB"},
	{"across 4 GiB", withProg(1, func(p *progHeader) { p.pa = 1<<32 - 0x1000 }), "segment at 0xfffff000 of 0x40000 bytes does not fit below 4 GiB"},
	{"bss of an exabyte", withProg(1, func(p *progHeader) { p.memSz = 1 << 60 }), "segment at 0x1200000 of 0x1000000000000000 bytes does not fit below 4 GiB"},
	{"wide span", withProg(1, func(p *progHeader) { p.pa = 0xf0000000 }), "segments span 3824 MiB, more than 2048"},
	{"overlap", withProg(1, func(p *progHeader) { p.pa = testBase + codeSize - 1 }), "segments 0x1000000-0x1003000 and 0x1002fff-0x1042fff overlap"},
	{"PVH entry outside", elfFile{patch: u32(notesOff+40, 0x9000000)}.bytes(), "PVH entry 0x9000000 is outside every segment"},
	{"PVH entry in bss", elfFile{patch: u32(notesOff+40, testBase+0x202000)}.bytes(), "PVH entry 0x1202000 is outside every segment"},
	{"PVH entry 0", elfFile{patch: u32(notesOff+40, 0)}.bytes(), "PVH entry 0x0 is not a 32-bit address"},
	{"PVH note of 2 bytes", elfFile{patch: u32(notesOff+28, 2)}.bytes(), "PVH note has 2 bytes, want 4 or 8"},
	{"note too long", elfFile{patch: u32(notesOff+4, 0xfffffff0)}.bytes(), "an ELF note is longer than its segment"},
	{"notes too long", withProg(2, func(p *progHeader) { p.fileSz = 1 << 40 }), "ELF notes of 1099511627776 bytes, more than 65536"},
	{"notes far away", withProg(2, func(p *progHeader) { p.off = 1 << 63 }), "truncated: ELF notes at 0x8000000000000000, file ends at 0x5800"},

	{"no HdrS", bzFile{patch: u8(offHdrS, 'h')}.bytes(), "neither a vmlinux (ELF) nor a bzImage"},
	{"EFI program", append([]byte("MZ"), make([]byte, 1024)...), "an EFI or Windows program without a Linux boot header"},
	{"old protocol", bzFile{patch: u16(offProtocol, 0x206)}.bytes(), "boot protocol 2.06 is too old; 2.08 (Linux 2.6.26) is needed"},
	{"32-bit bzImage", bzFile{patch: u8(offXLoadFlags, 0)}.bytes(), "a 32-bit bzImage; a 64-bit kernel is needed"},
	{"bzImage cut", bzFile{payload: make([]byte, 1000), patch: cut(4096)}.bytes(), "truncated: its header says 5824 bytes, the file has 4096"},
	{"payload outside", bzFile{payload: make([]byte, 1000), patch: u32(offPayloadLength, 1<<20)}.bytes(), "truncated: compressed payload at 0x12cc of 1048576 bytes, file ends at 0x16c0"},
	{"payload far off", bzFile{payload: make([]byte, 1000), patch: u32(offPayloadOffset, 0xffffffff)}.bytes(), "truncated: compressed payload at 0x100000fff of 1000 bytes, file ends at 0x16c0"},
	{"no payload", bzFile{payload: make([]byte, 1000), patch: u32(offPayloadLength, 0)}.bytes(), "truncated: compressed payload at 0x12cc of 0 bytes, file ends at 0x16c0"},
	{"huge init_size", bzFile{patch: u32(offInitSize, 0xffffffff)}.bytes(), "init_size of 4095 MiB, more than 2048"},
	{"short header", bzFile{patch: u8(offJumpLen, 0x10)}.bytes(), "setup header ends at 0x212, want at least 0x268"},
	{
		"lzma", bzFile{payload: []byte("\x5d\x00\x00\x80\x00data....")}.bytes(),
		"unsupported kernel compression: packed with lzma; use a kernel packed with gzip, xz, zstd, lz4 or bzip2, or its vmlinux",
	},
	{
		"lzo", bzFile{payload: []byte("\x89LZO\x00\r\n\x1adata")}.bytes(),
		"unsupported kernel compression: packed with lzo; use a kernel packed with gzip, xz, zstd, lz4 or bzip2, or its vmlinux",
	},
	{
		"unknown packing", bzFile{payload: []byte("whatever this is")}.bytes(),
		"unsupported kernel compression: packed in an unknown way (payload starts with 77 68 61 74 65 76 65 72)",
	},
	{"bomb by its word", bzFile{payload: sized(pack("gzip", make([]byte, 1<<20)), 0xffffffff)}.bytes(), "says it unpacks to 4095 MiB, more than 512"},
	{"more than it says", bzFile{payload: sized(pack("lz4", make([]byte, 1<<20)), 1000)}.bytes(), "unpacks to more than the 1000 bytes it says"},
	{"less than it says", bzFile{payload: sized(pack("zstd", make([]byte, 1000)), 2000)}.bytes(), "unpacks to 1000 bytes, not the 2000 it says"},
	{"not a kernel inside", bzFile{payload: pack("gzip", []byte(strings.Repeat("x", 1000)))}.bytes(), "not an ELF file"},
	{"32-bit inside", bzFile{payload: pack("zstd", elfFile{patch: u8(4, 1)}.bytes())}.bytes(), "32-bit ELF; a 64-bit x86 kernel is needed"},
}

// sized replaces the size at the end of a payload.
func sized(payload []byte, n uint32) []byte {
	le.PutUint32(payload[len(payload)-4:], n)
	return payload
}

func TestBadKernelsAreRefused(t *testing.T) {
	for _, c := range badKernels {
		t.Run(c.name, func(t *testing.T) {
			path, cache := writeFile(t, c.file), t.TempDir()
			k, err := OpenKernel(path, cache)
			if err == nil {
				k.Close()
				t.Fatal("opened")
			}
			// What was being read may stand before the cause.
			msg := strings.TrimPrefix(err.Error(), "kernel "+path+": ")
			for _, p := range []string{"inside the bzImage: ", "ELF header: ", "ELF program headers: ", "ELF notes: "} {
				msg = strings.TrimPrefix(msg, p)
			}
			if msg != "unusable kernel: "+c.want || !errors.Is(err, ErrKernel) {
				t.Errorf("error\n%v, want\n%v", msg, "unusable kernel: "+c.want)
			}
			if left, _ := os.ReadDir(cache); len(left) != 0 {
				t.Errorf("left %v in the cache", left)
			}
		})
	}
}

func TestDamagedPayloadIsRefused(t *testing.T) {
	for _, how := range []string{"gzip", "xz", "zstd", "lz4", "bzip2"} {
		t.Run(how, func(t *testing.T) {
			p := pack(how, elfFile{}.bytes())
			for i := len(p) / 3; i < len(p)/2; i++ {
				p[i] ^= 0x55
			}
			_, err := OpenKernel(writeFile(t, bzFile{payload: p}.bytes()), "")
			if !errors.Is(err, ErrKernel) {
				t.Errorf("error %v, want ErrKernel", err)
			}
		})
	}
}

func TestUnreadableFilesAreNamed(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ path, want string }{
		{filepath.Join(dir, "none"), "kernel: open " + dir + "/none: no such file or directory"},
		{dir, "kernel " + dir + ": unusable kernel: a directory, not a kernel"},
		{"/dev/null", "kernel /dev/null: unusable kernel: not a regular file"},
	} {
		if _, err := OpenKernel(c.path, ""); err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

func TestEveryPackingUnpacks(t *testing.T) {
	want := elfFile{}.bytes()
	for _, how := range []string{"gzip", "xz", "zstd", "lz4", "bzip2"} {
		t.Run(how, func(t *testing.T) {
			k := mustOpen(t, bzFile{payload: pack(how, want)}.bytes())
			got := make([]byte, len(want)+1)
			n, _ := k.file.ReadAt(got, 0)
			if !bytes.Equal(got[:n], want) {
				t.Error("unpacked to something else")
			}
			if k.Compression != how || k.Format != BzImage || k.Version != "6.1.0-test (me@here) #1 SMP" {
				t.Errorf("compression %q, format %v, version %q", k.Compression, k.Format, k.Version)
			}
			// The kernel reaches to 0x1240000, its init_size farther.
			if k.PVHEntry != testPVH || k.Entry64 != testBase || k.LoadStart != testBase || k.LoadEnd != testBase+0x300000 {
				t.Errorf("entries %v %v, loads %v-%v", k.PVHEntry, k.Entry64, k.LoadStart, k.LoadEnd)
			}
		})
	}
}

func TestVMLinuxOpens(t *testing.T) {
	k := mustOpen(t, elfFile{}.bytes())
	if k.Format != VMLinux || k.PVHEntry != testPVH || k.Entry64 != testBase || k.LoadEnd != testBase+0x240000 || k.CmdlineMax != 2047 {
		t.Errorf("%+v", k)
	}
	wide := elfFile{progs: goodProgs(), patch: func(b []byte) []byte { copy(b[notesOff:], xenNote(testPVH, 8)); return b }}
	wide.progs[2].fileSz += 4
	if k := mustOpen(t, wide.bytes()); k.PVHEntry != testPVH {
		t.Errorf("64-bit PVH note read as %v", k.PVHEntry)
	}
	// Linked low, as small test kernels are: PVH only.
	low := goodProgs()
	low[0].va, low[1].va = low[0].pa, low[1].pa
	if k := mustOpen(t, elfFile{progs: low}.bytes()); k.PVHEntry != testPVH || k.Entry64 != 0 {
		t.Errorf("low kernel has entries %v and %v", k.PVHEntry, k.Entry64)
	}
}

func TestOddVersionIsDropped(t *testing.T) {
	for _, patch := range []func([]byte) []byte{
		func(b []byte) []byte { copy(b[0x600:], "evil\x1b[2J\x00"); return b },
		u16(offKernelVersion, 0), u16(offKernelVersion, 0xffff),
	} {
		if k := mustOpen(t, bzFile{patch: patch}.bytes()); k.Version != "" {
			t.Errorf("version %q", k.Version)
		}
	}
}

// TestFixturesAreCurrent remakes, with -update, the payloads that no Go
// library writes: xz with the x86 branch filter, as the kernel's build does,
// and bzip2.
func TestFixturesAreCurrent(t *testing.T) {
	for how, cmd := range map[string][]string{
		"xz": {"xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB", "-c"}, "bzip2": {"bzip2", "-c"},
	} {
		if *update {
			c := exec.Command(cmd[0], cmd[1:]...)
			c.Stdin = bytes.NewReader(elfFile{}.bytes())
			out, err := c.Output()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join("testdata", "vmlinux."+how), out, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if p := pack("xz", nil); p[13] != 1 || p[14] != 4 {
		t.Errorf("the xz fixture does not start with the x86 filter: % x", p[12:18])
	}
}

// TestStockKernelsLoad reads every kernel that the guest tests boot.
func TestStockKernelsLoad(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	files, err := filepath.Glob(filepath.Join(testenv.TestKernels(), "*", "vmlinu[xz]"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no kernels in %s (%v)", testenv.TestKernels(), err)
	}
	cache := t.TempDir()
	for _, f := range files {
		k, err := OpenKernel(f, cache)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, p := range []Protocol{PVH, Linux64} {
			ram := Region{0, 128 << 20}
			if _, err := Load(newRAM(t, ram), Params{Kernel: k, RAM: []Region{ram}, Protocol: p}); err != nil {
				t.Errorf("%s by %v: %v", f, p, err)
			}
		}
		k.Close()
	}
}
