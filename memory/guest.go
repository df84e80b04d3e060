package memory

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// PageSize is the unit of the dirty bitmap and of region bounds, in bytes.
	PageSize = 4096
	// HugePageSize is the unit of region bounds with Options.HugePages.
	HugePageSize = 2 << 20
	// HoleStart is where the 32-bit device window begins: RAM that does not fit
	// below it continues at HoleEnd.
	HoleStart GPA = 3 << 30
	// HoleEnd is where the 32-bit device window ends.
	HoleEnd GPA = 4 << 30
	// maxSize keeps sizes and offsets far from wrapping; no host has more.
	maxSize = 1 << 46
)

// Span is a range of guest physical addresses.
type Span struct {
	GPA  GPA
	Size uint64 // bytes
}

// Options says what RAM to make. Exactly one of Size and Regions is set.
type Options struct {
	// Size is the amount of RAM in bytes, a multiple of the page size. It is
	// laid out from address 0 with the hole at HoleStart..HoleEnd.
	Size uint64
	// Regions is an explicit layout instead; the spans may not overlap.
	Regions []Span
	// Pluggable, when its Size is set, is a further region above all others of which
	// the guest has nothing at first; see Guest.Pluggable. Its bounds are multiples of
	// Block, which is one of HugePageSize. Not with HugePages or From.
	Pluggable Span
	Block     uint64 // bytes
	// HugePages takes 2 MiB pages from the host's hugetlb pool, reserved at
	// once: New fails when the pool is too small.
	HugePages bool
	// THP advises the kernel to use transparent huge pages.
	THP bool
	// Name shows in /proc/PID/maps; empty means "guest-ram".
	Name string
	// From, when set, is where the RAM's first content comes from. Pages are read
	// when first touched, and what is written stays here.
	From *Image
	// Adopt, when set, is the memfd behind the RAM of a Guest in another process:
	// both see the same bytes. New takes it over when it succeeds.
	Adopt *os.File
}

// Image is a file with the content of RAM.
type Image struct {
	File *os.File // stays the caller's; may be closed after New
	// Offsets are the places of the regions in the file, in address order,
	// multiples of the page size. Nobody may shrink the file while the Guest
	// lives, or an access is a SIGBUS; removing its name is harmless.
	Offsets []uint64
}

// Region is one contiguous piece of RAM.
type Region struct {
	GPA    GPA
	Size   uint64 // bytes
	Offset uint64 // of its first byte in the file behind FD
	Bytes  []byte // the host's view; len is Size
	plug   *Pluggable
}

// Guest is the RAM of one machine: a memfd mapped once, its pages made when
// first touched. All methods but Close may be called concurrently, from any
// goroutine, while the guest runs and changes the bytes: copy what you judge.
type Guest struct {
	fd      int
	mem     []byte // the whole mapping; regions are slices of it
	regions []Region
	dirty   *Bitmap
	plug    *Pluggable
	lent    []lent // memory of devices; constant while the guest runs
	huge    bool
	late    atomic.Pointer[Bitmap] // pages known to be there, while others may be missing; nil: none is
}

// New makes guest RAM. Nothing is touched, so it costs address space only
// until the guest or the VMM writes.
func New(o Options) (*Guest, error) {
	spans, total, err := o.layout()
	if err != nil {
		return nil, err
	}
	if o.From != nil {
		return newPrivate(o, spans, total)
	}
	fd, err := create(o, total)
	if err != nil {
		return nil, err
	}
	if o.Adopt != nil {
		defer o.Adopt.Close() // fd is its duplicate
	}
	flags := unix.MAP_SHARED
	if !o.HugePages { // without a reservation a short hugetlb pool is a SIGBUS later
		flags |= unix.MAP_NORESERVE
	}
	mem, err := reserve(total)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	if err := mapAt(mem, fd, 0, unix.PROT_READ|unix.PROT_WRITE, flags); err != nil {
		_ = unmap(mem)
		_ = unix.Close(fd)
		return nil, fmt.Errorf("map %d MiB of guest RAM: %w", total>>20, err)
	}
	if o.THP && !o.HugePages {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // advice: a kernel without THP refuses it
	}
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP) // a core of the VMM need not hold the guest
	g := newGuest(fd, mem, spans, o.HugePages)
	if o.Pluggable.Size > 0 {
		if err := g.mapPluggable(o.Block); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	return g, nil
}

// newGuest cuts a mapping into regions.
func newGuest(fd int, mem []byte, spans []Span, huge bool) *Guest {
	g := &Guest{fd: fd, mem: mem, dirty: NewBitmap(uint64(len(mem)) / PageSize), huge: huge}
	var off uint64
	for _, s := range spans {
		g.regions = append(g.regions, Region{
			GPA: s.GPA, Size: s.Size, Offset: off,
			Bytes: mem[off : off+s.Size : off+s.Size],
		})
		off += s.Size
	}
	return g
}

func create(o Options, total uint64) (int, error) {
	if o.Adopt != nil {
		return adopt(o.Adopt, total)
	}
	name := cmp.Or(o.Name, "guest-ram")
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	if o.HugePages {
		flags |= unix.MFD_HUGETLB | unix.MFD_HUGE_2MB
	}
	fd, err := unix.MemfdCreate(name, flags)
	if err != nil {
		return -1, fmt.Errorf("create guest RAM: %w", os.NewSyscallError("memfd_create", err))
	}
	if err := unix.Ftruncate(fd, int64(total)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("size guest RAM to %d MiB: %w", total>>20, os.NewSyscallError("ftruncate", err))
	}
	// Nobody we hand the descriptor to may shrink the file: our next access
	// would be a SIGBUS.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("seal guest RAM: %w", os.NewSyscallError("fcntl", err))
	}
	return fd, nil
}

// adopt duplicates a memfd after a look at it: one that is too short, or that
// somebody can still shrink, would be a SIGBUS some day.
func adopt(f *os.File, total uint64) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	refused := func(what string, err error) error {
		return fmt.Errorf("adopt guest RAM: %w", os.NewSyscallError(what, err))
	}
	cerr := raw.Control(func(from uintptr) {
		var st unix.Stat_t
		if err = unix.Fstat(int(from), &st); err != nil {
			err = refused("fstat", err)
			return
		}
		seals, serr := unix.FcntlInt(from, unix.F_GET_SEALS, 0)
		switch {
		case serr != nil:
			err = refused("fcntl", serr)
		case uint64(st.Size) != total:
			err = fmt.Errorf("%w: the guest RAM to adopt has %d bytes, want %d", ErrLayout, st.Size, total)
		case seals&unix.F_SEAL_SHRINK == 0:
			err = fmt.Errorf("%w: the guest RAM to adopt is not sealed against shrinking", ErrLayout)
		default:
			if fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3); err != nil {
				err = refused("fcntl", err)
			}
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return -1, err
	}
	return fd, nil
}

// layout returns the spans in address order and their sum.
func (o Options) layout() (spans []Span, total uint64, err error) {
	unit := uint64(PageSize)
	if o.HugePages {
		unit = HugePageSize
	}
	if (o.Size != 0) == (len(o.Regions) != 0) {
		return nil, 0, fmt.Errorf("%w: want a size or a list of regions", ErrLayout)
	}
	spans = slices.Clone(o.Regions)
	if o.Size != 0 {
		low := min(o.Size, uint64(HoleStart))
		spans = []Span{{0, low}}
		if o.Size > low {
			spans = append(spans, Span{HoleEnd, o.Size - low})
		}
	}
	slices.SortFunc(spans, func(a, b Span) int { return cmp.Compare(a.GPA, b.GPA) })
	if p := o.Pluggable; p.Size > 0 {
		if o.HugePages || o.From != nil || o.Block == 0 || o.Block%HugePageSize != 0 || uint64(p.GPA)%o.Block != 0 || p.Size%o.Block != 0 {
			return nil, 0, fmt.Errorf("%w: pluggable region %v+%#x in blocks of %d bytes (huge pages: %v)", ErrLayout, p.GPA, p.Size, o.Block, o.HugePages)
		}
		spans = append(spans, p) // the check below finds one that is not above the others
	}
	var prev GPA
	for i, s := range spans {
		end, ok := s.GPA.Add(s.Size)
		switch {
		case s.Size == 0 || s.Size > maxSize || total+s.Size > maxSize:
			return nil, 0, fmt.Errorf("%w: region at %v has size %d", ErrLayout, s.GPA, s.Size)
		case s.Size%unit != 0 || uint64(s.GPA)%unit != 0:
			return nil, 0, fmt.Errorf("%w: region %v+%#x is not a multiple of %d bytes", ErrLayout, s.GPA, s.Size, unit)
		case !ok || i > 0 && s.GPA < prev:
			return nil, 0, fmt.Errorf("%w: region %v+%#x wraps or overlaps", ErrLayout, s.GPA, s.Size)
		}
		prev, total = end, total+s.Size
	}
	return spans, total, nil
}

// Regions returns the RAM regions in address order, for memory slots, e820
// and saving. The caller may not change the slice.
func (g *Guest) Regions() []Region { return g.regions }

// Size returns the amount of RAM in bytes, what is pluggable included.
func (g *Guest) Size() uint64 { return uint64(len(g.mem)) }

// FD returns the memfd behind the RAM, for handing over to another process.
// It stays owned by g. It is -1 for RAM that was made from an Image.
func (g *Guest) FD() int { return g.fd }

// Dirty returns the bitmap of pages written by the VMM; bit n is the page at
// file offset n*PageSize.
func (g *Guest) Dirty() *Bitmap { return g.dirty }

// Close unmaps the RAM and closes the file. Preconditions: every goroutine
// that may touch the RAM has been joined and KVM no longer uses it; a later
// access is a SIGSEGV that nothing can recover.
func (g *Guest) Close() error {
	if g.mem == nil {
		return nil
	}
	err := unmap(g.mem)
	if g.plug != nil {
		err = errors.Join(err, unmap(g.plug.view))
	}
	g.mem, g.regions, g.plug = nil, nil, nil
	if g.fd < 0 {
		return err
	}
	if cerr := unix.Close(g.fd); err == nil {
		err = cerr
	}
	return err
}
