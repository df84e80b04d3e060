package boot

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/hvctl/hvctl/memory"
)

// checkKernel holds what Load relies on.
func checkKernel(t *testing.T, k *Kernel) {
	t.Helper()
	if k.LoadStart < lowestLoad || k.LoadEnd <= k.LoadStart || k.LoadEnd > 1<<33 || k.CmdlineMax >= cmdlineRoom {
		t.Fatalf("kernel claims %v-%v, command line %d", k.LoadStart, k.LoadEnd, k.CmdlineMax)
	}
	if k.PVHEntry == 0 && k.Entry64 == 0 {
		t.Fatal("kernel without an entry")
	}
	var last memory.GPA
	for _, s := range k.im.segments {
		if s.addr < last || s.fileSize > s.memSize || s.region().End() > k.LoadEnd {
			t.Fatalf("segments %+v", k.im.segments)
		}
		last = s.region().End()
	}
}

// headFile is a file of size bytes that starts with head; the rest is zero.
// Fuzzing works on the head alone, for long inputs make it slow.
type headFile struct {
	head []byte
	size int64
}

func (h headFile) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), max(h.size-off, 0)))
	clear(p[:n])
	if off < int64(len(h.head)) {
		copy(p[:n], h.head[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

const (
	elfHead  = notesOff + 0x40    // headers and notes of a fixture
	elfTotal = codeOff + codeSize // and enough for its segments
)

// addELFs gives the heads of all ELF fixtures, good and bad, to add.
func addELFs(add func(head []byte)) {
	for _, c := range badKernels {
		if bytes.HasPrefix(c.file, []byte("\x7fELF")) {
			add(c.file[:min(len(c.file), elfHead)])
		}
	}
	add(elfFile{}.bytes()[:elfHead])
}

func FuzzELF(f *testing.F) {
	addELFs(func(head []byte) { f.Add(head, uint32(elfTotal+0x1800)) })
	f.Fuzz(func(t *testing.T, head []byte, size uint32) {
		file := headFile{head, int64(size)}
		im, err := parseELF(file, file.size)
		if err != nil {
			if !errors.Is(err, ErrKernel) {
				t.Fatalf("error without a sentinel: %v", err)
			}
			return
		}
		checkKernel(t, newKernel("fuzz", im, nil, file, func() error { return nil }))
	})
}

// FuzzBzImage takes the setup header and the payload apart, so that it need
// not find the way past a kilobyte of zeros.
func FuzzBzImage(f *testing.F) {
	small := elfFile{}.bytes()[:elfHead]
	good := bzFile{}.bytes()[offSetupSects:offSetupEnd]
	for _, how := range []string{"gzip", "zstd", "lz4"} {
		f.Add(good, pack(how, small))
	}
	f.Add(good, sized(pack("xz", nil), uint32(len(elfFile{}.bytes()))))
	f.Add(good, sized(pack("bzip2", nil), uint32(len(elfFile{}.bytes()))))
	for _, c := range badKernels {
		if len(c.file) > 0x1000 && len(c.file) < 0x2000 && !bytes.HasPrefix(c.file, []byte("\x7fELF")) {
			f.Add(c.file[offSetupSects:offSetupEnd], c.file[0x12cc:])
		}
	}
	f.Fuzz(func(t *testing.T, setup, payload []byte) {
		b := make([]byte, 0x12cc, 0x12cc+len(payload))
		copy(b[offSetupSects:offSetupEnd], setup)
		b = append(b, payload...)
		le.PutUint32(b[offPayloadLength:], uint32(len(payload)))
		h, err := parseBzImage(b, int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrKernel) {
				t.Fatalf("error without a sentinel: %v", err)
			}
			return
		}
		r := bytes.NewReader(b)
		size, err := h.identify(r)
		if err != nil || size > 4<<20 { // larger ones only take longer
			return
		}
		n := &countWriter{}
		if err := h.unpackTo(n, r, size); err == nil && n.n != size || n.n > size+1 {
			t.Fatalf("unpacked %d bytes of %d (%v)", n.n, size, err)
		}
	})
}

type countWriter struct{ n int64 }

func (c *countWriter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// FuzzLoad loads whatever kernel into memory of whatever shape: it may fail,
// but it writes nothing outside RAM, into reserved ranges, or above the
// initramfs's limit, and never lays one thing over another.
func FuzzLoad(f *testing.F) {
	addELFs(func(head []byte) {
		f.Add(head, uint32(0), uint32(0x7fffffff), uint32(128<<20), uint64(0), uint64(0), uint32(5), uint8(0), "quiet")
	})
	good := elfFile{}.bytes()[:elfHead]
	f.Add(good, uint32(0x300000), uint32(0x7fffffff), uint32(32<<20), uint64(30<<20), uint64(1<<20), uint32(1<<20), uint8(2), "")
	f.Add(good, uint32(0), uint32(0xffffffff), uint32(3<<30), uint64(0xe0000000), uint64(1<<28), uint32(0), uint8(1), "a\x00")
	f.Add(good, uint32(0), uint32(0x1fffff), uint32(64<<20), uint64(1<<20), uint64(1<<20), uint32(9000), uint8(2), "x")
	f.Fuzz(func(t *testing.T, head []byte, initSize, initrdMax, ramSize uint32, resAt, resSize uint64, rdSize uint32, proto uint8, cmdline string) {
		file := headFile{head, elfTotal + 0x1800}
		im, err := parseELF(file, file.size)
		if err != nil || initSize > maxKernelSpan { // as OpenKernel does
			return
		}
		var hdr *bzHeader
		if initSize != 0 {
			hdr = &bzHeader{cmdlineMax: 100, initrdMax: memory.GPA(initrdMax), initSize: uint64(initSize), setup: make([]byte, 0x77)}
		}
		k := newKernel("fuzz", im, hdr, file, func() error { return nil })
		checkKernel(t, k)
		p := Params{
			Kernel: k, RAM: []Region{{0, uint64(ramSize)}, {4 << 30, 64 << 20}}, Protocol: Protocol(proto), Cmdline: cmdline, RNGSeed: []byte(cmdline),
			Initrds: []Initrd{{"one", ones{}, int64(rdSize % (1 << 20))}, {"two", ones{}, int64(rdSize >> 20)}},
		}
		if resSize != 0 {
			p.Reserved = []Region{{memory.GPA(resAt), resSize}}
		}
		pl, err := plan(p)
		if err == nil && pl.info.initrd.Size > 0 {
			rd := pl.info.initrd
			switch {
			case rd.GPA%0x1000 != 0, rd.End()-1 > k.InitrdMax, rd.GPA < oneMiB, rd.overlaps(Region{k.LoadStart, uint64(k.LoadEnd - k.LoadStart)}):
				t.Fatalf("initramfs at %v, kernel %v-%v, limit %v", rd, k.LoadStart, k.LoadEnd, k.InitrdMax)
			}
		}
		if ramSize == 0 {
			p.RAM = p.RAM[1:]
		}
		m := newRAM(t, p.RAM...)
		m.forbidden = []Region{legacyHole}
		if err == nil {
			m.forbidden = append(m.forbidden, p.Reserved...)
		}
		e, err := Load(m, p)
		switch {
		case err == nil && (e.RIP == 0 || e.RIP >= uint64(ramSize)):
			t.Fatalf("entry %+v outside RAM of %#x", e, ramSize)
		case err != nil && !errors.Is(err, ErrMemory) && !errors.Is(err, ErrCmdline) && !errors.Is(err, ErrParams) && !errors.Is(err, ErrKernel):
			t.Fatalf("error without a sentinel: %v", err)
		}
	})
}

// ones is an endless archive.
type ones struct{}

func (ones) ReadAt(p []byte, _ int64) (int, error) {
	for i := range p {
		p[i] = 1
	}
	return len(p), nil
}
