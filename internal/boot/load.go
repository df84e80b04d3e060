package boot

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

// Initrd is one initramfs archive.
type Initrd struct {
	Name string // for messages
	R    io.ReaderAt
	Size int64 // bytes
}

// Params says what to load where.
type Params struct {
	Kernel *Kernel
	// Initrds are laid one after the other, each starting at a multiple of 4
	// as Linux's unpacker wants; files in later ones replace those in earlier.
	Initrds []Initrd
	Cmdline string
	// RAM is the guest's memory. The first region starts at 0; each lies in
	// one piece in Memory, and reads as zero.
	RAM []Region
	// Reserved ranges are marked so in the memory map and never written: the
	// ECAM window, for one. The range from 0x9fc00 to 1 MiB always is.
	Reserved []Region
	// RSDP is the address of the ACPI root pointer, which the caller has
	// written or will write. 0: none.
	RSDP     memory.GPA
	Protocol Protocol
	// RNGSeed, at most MaxRNGSeed bytes, is mixed into the guest's random
	// pool. Only Linux64 can carry it; PVH has no place for it, and there it
	// is ignored (the guest has RDRAND and virtio-rng).
	RNGSeed []byte
}

// Load puts everything into m. It is called once, before any vCPU runs. When
// it fails, what it wrote is undefined. Errors wrap ErrMemory, ErrCmdline,
// ErrParams or ErrKernel; others are I/O errors.
func Load(m Memory, p Params) (Entry, error) {
	pl, err := plan(p)
	if err != nil {
		return Entry{}, err
	}
	k := p.Kernel
	if err := k.load(m); err != nil {
		return Entry{}, fmt.Errorf("kernel %s: %w", k.Path, err)
	}
	if err := loadInitrds(m, p.Initrds, pl.info.initrd.GPA); err != nil {
		return Entry{}, err
	}
	if err := m.WriteAt(append([]byte(p.Cmdline), 0), cmdlineAddr); err != nil {
		return Entry{}, err
	}
	if pl.protocol == PVH {
		return k.enterPVH(m, pl.info)
	}
	return k.enterLinux64(m, pl.info)
}

// loadPlan is where everything goes, decided before the first byte is written.
type loadPlan struct {
	protocol Protocol
	info     bootInfo
}

func plan(p Params) (loadPlan, error) {
	var pl loadPlan
	k := p.Kernel
	if k == nil {
		return pl, fmt.Errorf("%w: no kernel", ErrParams)
	}
	var err error
	if pl.protocol, err = k.choose(p.Protocol); err != nil {
		return pl, err
	}
	if err := k.checkCmdline(p.Cmdline); err != nil {
		return pl, err
	}
	if len(p.RNGSeed) > MaxRNGSeed {
		return pl, fmt.Errorf("%w: random seed of %d bytes, more than %d", ErrParams, len(p.RNGSeed), MaxRNGSeed)
	}
	ram, err := checkRegions("RAM", p.RAM)
	if err != nil {
		return pl, err
	}
	if len(ram) == 0 || ram[0].GPA != 0 {
		return pl, fmt.Errorf("%w: RAM must start at address 0", ErrParams)
	}
	reserved := append([]Region{legacyHole}, p.Reserved...)
	for _, r := range p.Reserved {
		if _, err := checkRegions("reserved", []Region{r}); err != nil {
			return pl, err
		}
		if r.overlaps(Region{0, uint64(lowRAMEnd)}) {
			return pl, fmt.Errorf("%w: reserved region %v covers the boot structures below %v", ErrParams, r, lowRAMEnd)
		}
	}
	pl.info = bootInfo{cmdline: p.Cmdline, rsdp: p.RSDP, seed: p.RNGSeed}
	if pl.info.memMap, err = memoryMap(ram, reserved); err != nil {
		return pl, err
	}
	pl.info.initrd, err = k.place(p.Initrds, ram, reserved)
	return pl, err
}

// choose settles on a protocol the kernel has.
func (k *Kernel) choose(want Protocol) (Protocol, error) {
	switch {
	case want == Auto && k.PVHEntry != 0:
		return PVH, nil
	case want == Auto:
		return Linux64, nil // every kernel has one of the two
	case want == PVH && k.PVHEntry == 0:
		return 0, fmt.Errorf("%w: kernel %s has no PVH entry (built without CONFIG_PVH); use linux64", ErrParams, k.Path)
	case want == Linux64 && k.Entry64 == 0:
		return 0, fmt.Errorf("%w: kernel %s has no 64-bit Linux entry; use pvh", ErrParams, k.Path)
	case want != PVH && want != Linux64:
		return 0, fmt.Errorf("%w: unknown protocol %v", ErrParams, want)
	}
	return want, nil
}

func (k *Kernel) checkCmdline(s string) error {
	if n := k.CmdlineMax; len(s) > n {
		return fmt.Errorf("%w: %d bytes, but kernel %s takes at most %d", ErrCmdline, len(s), k.Path, n)
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return fmt.Errorf("%w: NUL byte at position %d", ErrCmdline, i)
	}
	return nil
}

// place checks that the kernel fits and finds room for the initramfs: page
// aligned, as high as the kernel lets it be, clear of everything else.
func (k *Kernel) place(initrds []Initrd, ram, reserved []Region) (Region, error) {
	size, err := initrdBytes(initrds)
	if err != nil {
		return Region{}, err
	}
	kernel := Region{k.LoadStart, uint64(k.LoadEnd - k.LoadStart)}
	need := mib(uint64(k.LoadEnd) + pages(size))
	have := ram[0].Size
	if have < uint64(k.LoadEnd) {
		return Region{}, fmt.Errorf("%w: kernel %s occupies %v and needs at least %d MiB of memory%s, the guest has %d MiB",
			ErrMemory, k.Path, kernel, need, withInitrd(size), have>>20)
	}
	free := ram
	for _, r := range reserved {
		free = subtract(free, r)
	}
	if !contains(free, kernel) {
		return Region{}, fmt.Errorf("%w: kernel %s occupies %v, which is partly reserved", ErrParams, k.Path, kernel)
	}
	if size == 0 {
		return Region{}, nil
	}
	free = subtract(subtract(free, kernel), lowMemory)
	limit := min(k.InitrdMax, 1<<32-1) + 1
	for _, f := range slices.Backward(free) {
		end := min(f.End(), limit)
		if end <= f.GPA || uint64(end-f.GPA) < size {
			continue
		}
		if at := pageDown(end - memory.GPA(size)); at >= f.GPA {
			return Region{at, size}, nil
		}
	}
	if uint64(limit) < uint64(k.LoadEnd)+pages(size) {
		return Region{}, fmt.Errorf("%w: initramfs of %d MiB does not fit between kernel %s (up to %v) and %v, the highest address it takes",
			ErrParams, mib(size), k.Path, k.LoadEnd, limit-1)
	}
	return Region{}, fmt.Errorf("%w: kernel %s with an initramfs of %d MiB needs at least %d MiB, the guest has %d MiB",
		ErrMemory, k.Path, mib(size), need, have>>20)
}

func withInitrd(size uint64) string {
	if size == 0 {
		return ""
	}
	return " with its initramfs"
}

func mib(n uint64) uint64    { return (n + 1<<20 - 1) >> 20 }
func pages(n uint64) uint64  { return (n + 0xfff) &^ 0xfff }
func align4(n uint64) uint64 { return (n + 3) &^ 3 }

// initrdBytes is the size of all archives laid end to end.
func initrdBytes(initrds []Initrd) (uint64, error) {
	var n uint64
	for _, i := range initrds {
		if i.Size < 0 || i.Size >= 1<<32 || i.R == nil {
			return 0, fmt.Errorf("%w: initramfs %s has size %d; less than 4 GiB is possible", ErrParams, i.Name, i.Size)
		}
		if n = align4(n) + uint64(i.Size); n >= 1<<32 {
			return 0, fmt.Errorf("%w: initramfs archives of %d MiB in all; less than 4 GiB is possible", ErrParams, n>>20)
		}
	}
	return n, nil
}

func loadInitrds(m Memory, initrds []Initrd, at memory.GPA) error {
	for _, i := range initrds {
		at = (at + 3) &^ 3
		if err := m.LoadFrom(i.R, 0, at, uint64(i.Size)); err != nil {
			return fmt.Errorf("initramfs %s: %w", i.Name, err)
		}
		at += memory.GPA(i.Size)
	}
	return nil
}

// load reads the segments straight into guest memory, skipping holes.
func (k *Kernel) load(m Memory) error {
	for _, s := range k.im.segments {
		for off, left := s.off, s.fileSize; left > 0; {
			data, n := nextData(k.file, off, left)
			skip := uint64(data - off)
			off, left = data, left-skip
			at := s.addr + memory.GPA(off-s.off)
			if err := m.LoadFrom(k.file, off, at, n); err != nil {
				return err
			}
			off, left = off+int64(n), left-n
		}
	}
	return nil
}

// nextData finds the first stretch of file data in [off, off+n). Where there
// is none it returns the end and 0. Anything that does not know holes is all
// data.
func nextData(r io.ReaderAt, off int64, n uint64) (at int64, length uint64) {
	f, ok := r.(*os.File)
	if !ok {
		return off, n
	}
	fd, end := int(f.Fd()), off+int64(n)
	at, err := unix.Seek(fd, off, unix.SEEK_DATA)
	if err == unix.ENXIO || err == nil && at >= end {
		return end, 0
	}
	if err != nil || at < off {
		return off, n
	}
	hole, err := unix.Seek(fd, at, unix.SEEK_HOLE)
	if err != nil || hole <= at {
		return at, uint64(end - at)
	}
	return at, uint64(min(hole, end) - at)
}
