package memory

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newPrivate makes RAM of private mappings of a file, side by side in one range
// of addresses.
func newPrivate(o Options, spans []Span, total uint64) (*Guest, error) {
	if err := o.From.check(o, spans); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(-1, 0, int(total), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d MiB for guest RAM: %w", total>>20, os.NewSyscallError("mmap", err))
	}
	var off uint64
	for i, s := range spans {
		// SAFETY: [off, off+s.Size) lies in mem, which is ours alone, and which
		// the new mapping replaces; spans and offsets are page aligned (check).
		_, err := unix.MmapPtr(int(o.From.File.Fd()), int64(o.From.Offsets[i]), unsafe.Pointer(&mem[off]), uintptr(s.Size),
			unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE)
		if err != nil {
			_ = unix.Munmap(mem)
			return nil, fmt.Errorf("map guest RAM from %s: %w", o.From.File.Name(), os.NewSyscallError("mmap", err))
		}
		off += s.Size
	}
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP) // as in New
	return newGuest(-1, mem, spans, false), nil
}

// check makes sure that every page is in the file.
func (im *Image) check(o Options, spans []Span) error {
	if o.HugePages || o.THP {
		return fmt.Errorf("%w: RAM from a file has no huge pages", ErrLayout)
	}
	if len(im.Offsets) != len(spans) {
		return fmt.Errorf("%w: %s holds %d regions, want %d", ErrLayout, im.File.Name(), len(im.Offsets), len(spans))
	}
	st, err := im.File.Stat()
	if err != nil {
		return err
	}
	for i, s := range spans {
		at := im.Offsets[i]
		if at%PageSize != 0 || at > uint64(st.Size()) || s.Size > uint64(st.Size())-at {
			return fmt.Errorf("%w: region %v+%#x is not at %#x of %s, which has %#x bytes", ErrLayout, s.GPA, s.Size, at, im.File.Name(), st.Size())
		}
	}
	return nil
}
