package pci

import "errors"

var (
	// ErrFull is wrapped when a bus has no slot or no address space left.
	ErrFull = errors.New("PCI bus is full")
	// ErrState is wrapped when saved state is refused.
	ErrState = errors.New("PCI state refused")
	// ErrDesign is wrapped when a function cannot be built as asked: a bug in
	// the device behind it.
	ErrDesign = errors.New("impossible PCI function")
)
