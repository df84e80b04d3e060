package memory

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Mapping is a file in this process's addresses, for a memory slot of its own
// beside the RAM: what the guest reads there are the pages that the host's page
// cache has. Somebody may shrink the file, and then an access from here is a SIGBUS,
// in a system call EFAULT; the guest's is an error of KVM_RUN.
type Mapping struct{ mem []byte }

// MapFile maps the first size bytes of f, which stays the caller's and may be
// closed. What the guest is given ends at a multiple of HugePageSize: the rest
// reads as zeroes. Without writable nobody can write to the file through it, and
// the rest cannot be written either.
func MapFile(f *os.File, size uint64, writable bool) (*Mapping, error) {
	if size == 0 || size > maxSize {
		return nil, fmt.Errorf("%w: cannot map %d bytes of %s", ErrLayout, size, f.Name())
	}
	total := (size + HugePageSize - 1) &^ (HugePageSize - 1)
	whole := (size + PageSize - 1) &^ (PageSize - 1) // of the last page, the kernel clears the rest
	access := unix.PROT_READ
	if writable {
		access |= unix.PROT_WRITE
	}
	mem, err := reserve(total)
	if err != nil {
		return nil, err
	}
	err = mapAt(mem[:whole], int(f.Fd()), 0, access, unix.MAP_SHARED)
	if err == nil && whole < total {
		err = os.NewSyscallError("mprotect", unix.Mprotect(mem[whole:], access))
	}
	if err != nil {
		_ = unmap(mem)
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP) // a core of the VMM need not hold it
	return &Mapping{mem}, nil
}

// Bytes is the mapping, for kvm.VM.SetMemorySlot and Guest.Lend.
func (m *Mapping) Bytes() []byte { return m.mem }

// Close ends it. Preconditions: no memory slot is left.
func (m *Mapping) Close() error {
	if m.mem == nil {
		return nil
	}
	err := unmap(m.mem)
	m.mem = nil
	return err
}
