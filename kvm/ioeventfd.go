package kvm

import "fmt"

// ioEventFD is struct kvm_ioeventfd.
type ioEventFD struct {
	DataMatch uint64
	Addr      uint64
	Len       uint32
	FD        int32
	Flags     uint32
	Pad       [36]uint8
}

const (
	ioEventFDFlagDataMatch = 1 << 0 // KVM_IOEVENTFD_FLAG_DATAMATCH
	ioEventFDFlagPIO       = 1 << 1 // KVM_IOEVENTFD_FLAG_PIO
	ioEventFDFlagDeassign  = 1 << 2 // KVM_IOEVENTFD_FLAG_DEASSIGN
)

// IOEventFD says which guest writes signal an eventfd instead of ending
// KVM_RUN.
type IOEventFD struct {
	Addr uint64 // guest physical address, or port if PIO
	// Len is the width of the write in bytes: 1, 2, 4 or 8. 0 matches any
	// width, is the fastest for MMIO, and excludes Match.
	Len       uint32
	PIO       bool
	Match     bool   // only writes of DataMatch count
	DataMatch uint64 // with Match
}

// AssignIOEventFD registers an eventfd for guest writes (KVM_IOEVENTFD). KVM
// holds its own reference to the eventfd. EEXIST means that the address has
// one that matches the same writes.
func (vm *VM) AssignIOEventFD(eventfd int, e IOEventFD) error {
	return vm.ioEventFD(eventfd, e, 0)
}

// DeassignIOEventFD undoes AssignIOEventFD with the same arguments; ENOENT when
// there is none.
func (vm *VM) DeassignIOEventFD(eventfd int, e IOEventFD) error {
	return vm.ioEventFD(eventfd, e, ioEventFDFlagDeassign)
}

func (vm *VM) ioEventFD(eventfd int, e IOEventFD, flags uint32) error {
	space := "address"
	if e.PIO {
		space = "port"
		flags |= ioEventFDFlagPIO
	}
	if e.Match {
		flags |= ioEventFDFlagDataMatch
	}
	err := set(&vm.fd, &reqIOEventFD, &ioEventFD{
		DataMatch: e.DataMatch, Addr: e.Addr, Len: e.Len, FD: int32(eventfd), Flags: flags,
	})
	if err == nil {
		return nil
	}
	c := CapIOEventFD
	if e.Len == 0 {
		c = CapIOEventFDAnyLength
	}
	return fmt.Errorf("%s %#x: %w", space, e.Addr, explain(err, vm, c))
}
