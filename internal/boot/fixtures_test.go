package boot

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

var le = binary.LittleEndian

// progHeader is one ELF program header as a test writes it.
type progHeader struct {
	kind                       uint32
	off, va, pa, fileSz, memSz uint64
}

// elfFile is a vmlinux in the making. Zero fields mean a good kernel.
type elfFile struct {
	progs []progHeader
	entry uint64
	patch func([]byte) []byte
}

const (
	testBase  = 0x1000000
	testPVH   = testBase + 0x850
	codeOff   = 0x1000
	codeSize  = 0x3000
	notesOff  = 0x200
	kernelTop = 0xffffffff80000000
)

// xenNote is a PT_NOTE with someone else's note before the PVH entry.
func xenNote(entry uint64, width int) []byte {
	b := []byte("\x04\x00\x00\x00\x05\x00\x00\x00\x03\x00\x00\x00GNU\x00\x01\x02\x03\x04\x05\x00\x00\x00")
	b = le.AppendUint32(b, 4)
	b = le.AppendUint32(b, uint32(width))
	b = le.AppendUint32(b, noteXenPhys32Entry)
	b = append(b, "Xen\x00"...)
	return append(b, le.AppendUint64(nil, entry)[:width]...)
}

// goodProgs is the shape of a real kernel: code, data with a bss, notes.
func goodProgs() []progHeader {
	return []progHeader{
		{ptLoad, codeOff, kernelTop + testBase, testBase, codeSize, codeSize},
		{ptLoad, codeOff + codeSize, kernelTop + testBase + 0x200000, testBase + 0x200000, 0x1800, 0x40000},
		{ptNote, notesOff, 0, 0, uint64(len(xenNote(0, 4))), 0},
	}
}

func (e elfFile) bytes() []byte {
	if e.progs == nil {
		e.progs = goodProgs()
	}
	if e.entry == 0 {
		e.entry = testBase
	}
	b := make([]byte, codeOff+codeSize+0x1800)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], etEXEC)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[24:], e.entry)
	le.PutUint64(b[32:], elfHeaderSize)
	le.PutUint16(b[54:], elfProgSize)
	le.PutUint16(b[56:], uint16(len(e.progs)))
	for i, p := range e.progs {
		h := b[elfHeaderSize+i*elfProgSize:]
		le.PutUint32(h, p.kind)
		le.PutUint64(h[8:], p.off)
		le.PutUint64(h[16:], p.va)
		le.PutUint64(h[24:], p.pa)
		le.PutUint64(h[32:], p.fileSz)
		le.PutUint64(h[40:], p.memSz)
	}
	copy(b[notesOff:], xenNote(testPVH, 4))
	// Code that the x86 branch filter of xz rewrites, a zero page in the
	// middle, and data.
	for i := codeOff; i < codeOff+0x1000; i += 8 {
		copy(b[i:], []byte{0xe8, byte(i), byte(i >> 8), 0, 0, 0x90, 0x90, 0xc3})
	}
	for i := codeOff + 0x2000; i < len(b); i++ {
		b[i] = byte(i * 7)
	}
	if e.patch != nil {
		b = e.patch(b)
	}
	return b
}

// bzFile is a bzImage in the making. Zero fields mean a good kernel.
type bzFile struct {
	payload []byte // nil: a good kernel, gzipped
	patch   func([]byte) []byte
}

func (z bzFile) bytes() []byte {
	if z.payload == nil {
		z.payload = pack("gzip", elfFile{}.bytes())
	}
	const sects, payloadAt = 7, 0x2cc
	b := make([]byte, (sects+1)*512+payloadAt)
	b = append(b, z.payload...)
	b = append(b, make([]byte, -len(b)&15)...)
	b[offSetupSects] = sects
	le.PutUint32(b[offSysSize:], uint32(len(b)-(sects+1)*512)/16)
	le.PutUint16(b[offBootFlag:], 0xaa55)
	b[0x200], b[offJumpLen] = 0xeb, 0x6a
	copy(b[offHdrS:], "HdrS")
	le.PutUint16(b[offProtocol:], 0x20f)
	le.PutUint16(b[offKernelVersion:], 0x400)
	copy(b[0x600:], "6.1.0-test (me@here) #1 SMP\x00")
	le.PutUint32(b[offInitrdAddrMax:], 0x7fffffff)
	b[offXLoadFlags] = 0x7f
	le.PutUint32(b[offCmdlineSize:], 2047)
	le.PutUint32(b[offPayloadOffset:], payloadAt)
	le.PutUint32(b[offPayloadLength:], uint32(len(z.payload)))
	le.PutUint32(b[offInitSize:], 0x300000)
	if z.patch != nil {
		b = z.patch(b)
	}
	return b
}

// pack compresses as the kernel's build does, size appended.
func pack(how string, b []byte) []byte {
	var out bytes.Buffer
	var err error
	switch how {
	case "gzip":
		w := gzip.NewWriter(&out)
		_, err = w.Write(b)
		err = errors.Join(err, w.Close())
	case "zstd":
		w, e := zstd.NewWriter(&out)
		if e != nil {
			panic(e)
		}
		_, err = w.Write(b)
		err = errors.Join(err, w.Close())
	case "lz4":
		w := lz4.NewWriter(&out)
		err = w.Apply(lz4.LegacyOption(true))
		_, e := w.Write(b)
		err = errors.Join(err, e, w.Close())
	default: // made by the xz and bzip2 programs, see TestFixturesAreCurrent
		p, e := os.ReadFile(filepath.Join("testdata", "vmlinux."+how))
		if e != nil {
			panic(e)
		}
		out.Write(p)
	}
	if err != nil {
		panic(err)
	}
	if how != "gzip" {
		out.Write(le.AppendUint32(nil, uint32(len(b))))
	}
	return out.Bytes()
}

// writeFile puts b into a new file and returns its path.
func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustOpen(t testing.TB, b []byte) *Kernel {
	t.Helper()
	k, err := OpenKernel(writeFile(t, b), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// fakeRAM is guest memory with a record of how much was touched. It fails the
// test on any access that is not wholly inside one region, or that is inside a
// forbidden one.
type fakeRAM struct {
	t         testing.TB
	regions   []Region
	forbidden []Region
	bytes     [][]byte // of each region
	written   uint64
}

func newRAM(t testing.TB, regions ...Region) *fakeRAM {
	t.Helper()
	r := &fakeRAM{t: t, regions: regions}
	for _, g := range regions {
		if g.Size == 0 || g.Size > 1<<40 {
			r.bytes = append(r.bytes, nil) // Load must refuse it
			continue
		}
		b, err := unix.Mmap(-1, 0, int(g.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Munmap(b) })
		r.bytes = append(r.bytes, b)
	}
	return r
}

func (r *fakeRAM) LoadFrom(from io.ReaderAt, off int64, a memory.GPA, n uint64) error {
	r.t.Helper()
	d, err := r.slice(a, n)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(io.NewSectionReader(from, off, int64(n)), d)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (r *fakeRAM) slice(a memory.GPA, n uint64) ([]byte, error) {
	r.t.Helper()
	for _, f := range r.forbidden {
		if n > 0 && f.overlaps(Region{a, n}) {
			r.t.Fatalf("access to %#x bytes at %v, in the forbidden %v", n, a, f)
		}
	}
	for i, g := range r.regions {
		if off := uint64(a - g.GPA); a >= g.GPA && off <= g.Size && n <= g.Size-off {
			r.written += n
			return r.bytes[i][off : off+n : off+n], nil
		}
	}
	r.t.Fatalf("access to %#x bytes at %v, outside RAM %v", n, a, r.regions)
	return nil, nil
}

func (r *fakeRAM) WriteAt(p []byte, a memory.GPA) error {
	r.t.Helper()
	d, err := r.slice(a, uint64(len(p)))
	copy(d, p)
	return err
}

// read returns what the guest would find, and nil outside RAM.
func (r *fakeRAM) read(a memory.GPA, n int) []byte {
	for i, g := range r.regions {
		if a >= g.GPA && a+memory.GPA(n) <= g.End() {
			return r.bytes[i][a-g.GPA:][:n]
		}
	}
	return nil
}
