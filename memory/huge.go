package memory

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MakeHuge puts one huge page behind the HugePageSize bytes at a, which is a
// multiple of that. What is there stays, what is not there becomes zeroes: it is
// for RAM that is about to be filled, which then costs a quarter of what 512
// pages cost, and is mapped into the guest by one fault. It asks for the page
// whatever the host's settings for transparent huge pages are, "deny" for shared
// memory excepted. Of a pluggable region the guest need not have it yet. Errors wrap ErrOutOfRange, ErrLayout or name the system
// call; the RAM is as usable as before then.
func (g *Guest) MakeHuge(a GPA) error {
	r, off, err := g.locate(a, HugePageSize)
	if err != nil {
		return err
	}
	at := r.Offset + off
	if at%HugePageSize != 0 || g.fd < 0 || g.huge {
		return fmt.Errorf("%w: no place for a huge page at %v", ErrLayout, a)
	}
	mem := g.mem[at : at+HugePageSize]
	// The kernel makes a huge page of what is there, so something has to be. The
	// guest may be running: what it has written has to stay.
	if err := unix.Madvise(mem[:PageSize], unix.MADV_POPULATE_WRITE); err != nil {
		return fmt.Errorf("huge page at %v: %w", a, os.NewSyscallError("madvise", err))
	}
	if err := unix.Madvise(mem, unix.MADV_COLLAPSE); err != nil {
		return fmt.Errorf("huge page at %v: %w", a, os.NewSyscallError("madvise", err))
	}
	return nil
}
