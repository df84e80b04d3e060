package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// newPrivate makes RAM of private mappings of a file, side by side in one range
// of addresses.
func newPrivate(o Options, spans []Span, total uint64) (*Guest, error) {
	if err := o.From.check(o, spans); err != nil {
		return nil, err
	}
	mem, err := reserve(total)
	if err != nil {
		return nil, err
	}
	var off uint64
	for i, s := range spans {
		err := mapAt(mem[off:off+s.Size], int(o.From.File.Fd()), int64(o.From.Offsets[i]), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
		if err != nil {
			_ = unmap(mem)
			return nil, fmt.Errorf("map guest RAM from %s: %w", o.From.File.Name(), err)
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
