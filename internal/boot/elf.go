package boot

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/hvctl/hvctl/memory"
)

// ELF numbers, from the System V ABI (generic and x86-64 supplement).
const (
	elfHeaderSize = 64
	elfProgSize   = 56

	etREL, etEXEC, etDYN, etCORE = 1, 2, 3, 4

	ptLoad, ptInterp, ptNote = 1, 3, 4

	// noteXenPhys32Entry is XEN_ELFNOTE_PHYS32_ENTRY of Xen's elfnote.h: the
	// physical address of the PVH entry point.
	noteXenPhys32Entry = 18
)

// Limits of what a kernel may ask for; all far above any real one.
const (
	maxSegments   = 64
	maxNoteBytes  = 64 << 10
	maxKernelSpan = 2 << 30
	lowestLoad    = 1 << 20 // below lie our own boot structures
)

// elfMachines names what people most often hand over by mistake.
var elfMachines = map[uint16]string{
	3: "32-bit x86", 8: "MIPS", 20: "32-bit PowerPC", 21: "PowerPC", 22: "S/390",
	40: "32-bit ARM", 183: "ARM64", 243: "RISC-V", 258: "LoongArch",
}

var elfTypes = map[uint16]string{
	etREL: "an object file or kernel module", etDYN: "a shared library or position-independent program", etCORE: "a core dump",
}

// segment is one PT_LOAD: fileSize bytes at off go to addr, and memSize in
// all belong to the kernel, the rest being zero.
type segment struct {
	off      int64
	addr     memory.GPA
	fileSize uint64
	memSize  uint64
}

func (s segment) region() Region { return Region{s.addr, s.memSize} }

// elfImage is a checked vmlinux.
type elfImage struct {
	segments []segment // sorted by address, disjoint, memSize > 0
	entry    memory.GPA
	pvh      memory.GPA // 0: no PVH note
	kernelVA bool       // linked into the upper half, as Linux is
}

// span is everything from the first to the last byte of the kernel.
func (im *elfImage) span() Region {
	first, last := im.segments[0], im.segments[len(im.segments)-1]
	return Region{first.addr, uint64(last.region().End() - first.addr)}
}

func (im *elfImage) holds(a memory.GPA) bool {
	for _, s := range im.segments {
		if a >= s.addr && a-s.addr < memory.GPA(s.fileSize) {
			return true
		}
	}
	return false
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrKernel}, args...)...)
}

// parseELF checks the vmlinux in the size bytes of r. It reads the headers
// and the notes, not the contents.
func parseELF(r io.ReaderAt, size int64) (*elfImage, error) {
	var h [elfHeaderSize]byte
	if err := readFull(r, h[:], 0, size); err != nil {
		return nil, fmt.Errorf("ELF header: %w", err)
	}
	if err := checkIdent(h[:]); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	progOff, progSize, progNum := le.Uint64(h[32:]), le.Uint16(h[54:]), le.Uint16(h[56:])
	if progSize != elfProgSize {
		return nil, bad("ELF program headers are %d bytes each, want %d", progSize, elfProgSize)
	}
	if progNum == 0 || progNum > maxSegments {
		return nil, bad("ELF has %d program headers, want 1 to %d", progNum, maxSegments)
	}
	table := make([]byte, int(progNum)*elfProgSize)
	if progOff > math.MaxInt64 {
		return nil, bad("truncated: ELF program headers at %#x, file ends at %#x", progOff, size)
	}
	if err := readFull(r, table, int64(progOff), size); err != nil {
		return nil, fmt.Errorf("ELF program headers: %w", err)
	}
	im := &elfImage{}
	for p := range slices.Chunk(table, elfProgSize) {
		if err := im.addProgram(r, p, size); err != nil {
			return nil, err
		}
	}
	return im, im.finish(memory.GPA(le.Uint64(h[24:])))
}

func checkIdent(h []byte) error {
	le := binary.LittleEndian
	switch {
	case !bytes.HasPrefix(h, []byte("\x7fELF")):
		return bad("not an ELF file")
	case h[4] == 1:
		return bad("32-bit ELF; a 64-bit x86 kernel is needed")
	case h[4] != 2:
		return bad("ELF class %d is unknown", h[4])
	case h[5] == 2:
		return bad("big-endian ELF; a 64-bit x86 kernel is needed")
	case h[5] != 1 || h[6] != 1:
		return bad("ELF data encoding %d version %d is unknown", h[5], h[6])
	}
	if m := le.Uint16(h[18:]); m != 62 {
		name := elfMachines[m]
		if name == "" {
			name = fmt.Sprintf("machine %d", m)
		}
		return bad("built for %s; a 64-bit x86 kernel is needed", name)
	}
	if t := le.Uint16(h[16:]); t != etEXEC {
		name := elfTypes[t]
		if name == "" {
			name = fmt.Sprintf("an ELF file of type %d", t)
		}
		return bad("%s, not a vmlinux", name)
	}
	return nil
}

// addProgram takes one program header p of a file of size bytes.
func (im *elfImage) addProgram(r io.ReaderAt, p []byte, size int64) error {
	le := binary.LittleEndian
	kind, off := le.Uint32(p), le.Uint64(p[8:])
	va, pa := le.Uint64(p[16:]), le.Uint64(p[24:])
	fileSize, memSize := le.Uint64(p[32:]), le.Uint64(p[40:])
	switch kind {
	case ptInterp:
		return bad("an ordinary program (it names a dynamic linker), not a vmlinux")
	case ptNote:
		if fileSize > maxNoteBytes {
			return bad("ELF notes of %d bytes, more than %d", fileSize, maxNoteBytes)
		}
		if off > math.MaxInt64 {
			return bad("truncated: ELF notes at %#x, file ends at %#x", off, size)
		}
		notes := make([]byte, fileSize)
		if err := readFull(r, notes, int64(off), size); err != nil {
			return fmt.Errorf("ELF notes: %w", err)
		}
		return im.readNotes(notes)
	case ptLoad:
		if memSize == 0 {
			return nil
		}
	default:
		return nil
	}
	switch {
	case fileSize > memSize:
		return bad("segment at %#x has %#x bytes in the file but %#x in memory", pa, fileSize, memSize)
	case off > uint64(size) || fileSize > uint64(size)-off:
		return bad("truncated: segment at %#x ends at offset %#x, file ends at %#x", pa, satAdd(off, fileSize), size)
	case pa < lowestLoad:
		return bad("segment at %#x lies below 1 MiB", pa)
	case memSize > maxKernelSpan || pa > 1<<32-1 || pa+memSize > 1<<32:
		return bad("segment at %#x of %#x bytes does not fit below 4 GiB", pa, memSize)
	}
	im.segments = append(im.segments, segment{off: int64(off), addr: memory.GPA(pa), fileSize: fileSize, memSize: memSize})
	im.kernelVA = im.kernelVA || va >= 1<<63
	return nil
}

// finish checks the segments against each other and the entry points.
func (im *elfImage) finish(entry memory.GPA) error {
	if len(im.segments) == 0 {
		return bad("ELF has nothing to load")
	}
	slices.SortFunc(im.segments, func(a, b segment) int { return cmp.Compare(a.addr, b.addr) })
	for i := 1; i < len(im.segments); i++ {
		if a, b := im.segments[i-1].region(), im.segments[i].region(); a.overlaps(b) {
			return bad("segments %v and %v overlap", a, b)
		}
	}
	if n := im.span().Size; n > maxKernelSpan {
		return bad("segments span %d MiB, more than %d", n>>20, maxKernelSpan>>20)
	}
	if im.pvh != 0 && !im.holds(im.pvh) {
		return bad("PVH entry %v is outside every segment", im.pvh)
	}
	// A kernel linked low without a PVH note is some static program.
	if im.holds(entry) && im.kernelVA {
		im.entry = entry
	}
	if im.entry == 0 && im.pvh == 0 {
		return bad("no usable entry point: entry %v is not a kernel's and there is no PVH note", entry)
	}
	return nil
}

// readNotes looks for the PVH entry in one PT_NOTE. Name and descriptor are
// padded to 4 bytes (Linux and Xen both do so, also in 64-bit files).
func (im *elfImage) readNotes(b []byte) error {
	le := binary.LittleEndian
	for len(b) >= 12 {
		nameLen, descLen, kind := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		b = b[12:]
		descAt := (nameLen + 3) &^ 3
		next := descAt + (descLen+3)&^3
		if descAt+descLen > uint64(len(b)) {
			return bad("an ELF note is longer than its segment")
		}
		if kind == noteXenPhys32Entry && string(b[:nameLen]) == "Xen\x00" {
			desc := b[descAt : descAt+descLen]
			var a uint64
			switch descLen {
			case 4:
				a = uint64(le.Uint32(desc))
			case 8:
				a = le.Uint64(desc)
			default:
				return bad("PVH note has %d bytes, want 4 or 8", descLen)
			}
			if a == 0 || a >= 1<<32 {
				return bad("PVH entry %#x is not a 32-bit address", a)
			}
			im.pvh = memory.GPA(a)
		}
		b = b[min(next, uint64(len(b))):]
	}
	return nil
}

// readFull reads all of p at off from a file of size bytes.
func readFull(r io.ReaderAt, p []byte, off, size int64) error {
	if off < 0 || off > size || int64(len(p)) > size-off {
		return bad("truncated: %d bytes wanted at offset %#x, file ends at %#x", len(p), off, size)
	}
	if n, err := r.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("read at %#x: %w", off, err)
	}
	return nil
}

func satAdd(a, b uint64) uint64 {
	if a+b < a {
		return math.MaxUint64
	}
	return a + b
}
