package kvm

import "fmt"

// Kinds of GSI route.
const (
	IRQRoutingIRQChip = 1 // KVM_IRQ_ROUTING_IRQCHIP
	IRQRoutingMSI     = 2 // KVM_IRQ_ROUTING_MSI
)

// MaxIRQRoutes is how many entries KVM_SET_GSI_ROUTING takes on x86
// (KVM_MAX_IRQ_ROUTES in the kernel's include/linux/kvm_host.h).
const MaxIRQRoutes = 4096

// irqRoutingHeader is struct kvm_irq_routing without its flexible array.
type irqRoutingHeader struct {
	Nr    uint32
	Flags uint32
}

// IRQRoute is struct kvm_irq_routing_entry: where a GSI goes. Make one with
// IRQChipRoute or MSIRoute.
type IRQRoute struct {
	GSI   uint32
	Type  uint32
	Flags uint32
	Pad   uint32
	U     [8]uint32 // union: irqchip and pin; or MSI address low, high and data
}

// IRQChipRoute routes a GSI to a pin of IRQChipPICMaster, IRQChipPICSlave or
// IRQChipIOAPIC. One GSI may have a route to a PIC and one to the IOAPIC.
func IRQChipRoute(gsi, chip, pin uint32) IRQRoute {
	return IRQRoute{GSI: gsi, Type: IRQRoutingIRQChip, U: [8]uint32{chip, pin}}
}

// MSIRoute routes a GSI to a message-signalled interrupt.
func MSIRoute(gsi uint32, addr uint64, data uint32) IRQRoute {
	return IRQRoute{GSI: gsi, Type: IRQRoutingMSI, U: [8]uint32{uint32(addr), uint32(addr >> 32), data}}
}

// MSI returns address and data of an MSI route; ok is false for other kinds.
func (r IRQRoute) MSI() (addr uint64, data uint32, ok bool) {
	if r.Type != IRQRoutingMSI {
		return 0, 0, false
	}
	return uint64(r.U[1])<<32 | uint64(r.U[0]), r.U[2], true
}

// DefaultIRQRoutes returns the routes that CreateIRQChip sets up: GSI n to pin
// n of the IOAPIC and, below 16, also to the PICs. SetGSIRouting replaces the
// whole table, so callers that add routes start from these.
func DefaultIRQRoutes() []IRQRoute {
	var t []IRQRoute
	for gsi := range uint32(IOAPICPins) {
		t = append(t, IRQChipRoute(gsi, IRQChipIOAPIC, gsi))
		switch {
		case gsi < 8:
			t = append(t, IRQChipRoute(gsi, IRQChipPICMaster, gsi))
		case gsi < 16:
			t = append(t, IRQChipRoute(gsi, IRQChipPICSlave, gsi-8))
		}
	}
	return t
}

// SetGSIRouting replaces the VM's routing table (KVM_SET_GSI_ROUTING). It is
// costly (it waits for an RCU grace period): gather changes. Interrupts keep
// flowing by the old table or the new one.
func (vm *VM) SetGSIRouting(routes []IRQRoute) error {
	f := newFAM[irqRoutingHeader, IRQRoute](len(routes))
	f.header().Nr = uint32(len(routes))
	copy(f.entries(), routes)
	if err := set(&vm.fd, &reqSetGSIRouting, f.header()); err != nil {
		return fmt.Errorf("%d routes: %w", len(routes), explain(err, vm, CapIRQRouting))
	}
	return nil
}

// irqFD is struct kvm_irqfd.
type irqFD struct {
	FD         uint32
	GSI        uint32
	Flags      uint32
	ResampleFD uint32
	Pad        [16]uint8
}

const (
	irqFDFlagDeassign = 1 << 0 // KVM_IRQFD_FLAG_DEASSIGN
	irqFDFlagResample = 1 << 1 // KVM_IRQFD_FLAG_RESAMPLE
)

// AssignIRQFD makes every signal of an eventfd an edge on a GSI, with no
// further system call (KVM_IRQFD). KVM holds its own reference to the eventfd.
// EBUSY means that the eventfd is assigned already.
func (vm *VM) AssignIRQFD(eventfd int, gsi uint32) error {
	return vm.irqFD(irqFD{FD: uint32(eventfd), GSI: gsi}, CapIRQFD)
}

// AssignIRQFDResample is AssignIRQFD for a level-triggered GSI: a signal raises
// the line, the guest's EOI lowers it and signals resamplefd, and the device
// signals eventfd again if its line is still high.
func (vm *VM) AssignIRQFDResample(eventfd, resamplefd int, gsi uint32) error {
	return vm.irqFD(irqFD{
		FD: uint32(eventfd), GSI: gsi,
		Flags: irqFDFlagResample, ResampleFD: uint32(resamplefd),
	}, CapIRQFDResample)
}

// DeassignIRQFD undoes AssignIRQFD. When it returns, no interrupt of this
// eventfd is in flight any more. Deassigning what is not assigned does nothing.
func (vm *VM) DeassignIRQFD(eventfd int, gsi uint32) error {
	return vm.irqFD(irqFD{FD: uint32(eventfd), GSI: gsi, Flags: irqFDFlagDeassign}, CapIRQFD)
}

func (vm *VM) irqFD(i irqFD, c Cap) error {
	if err := set(&vm.fd, &reqIRQFD, &i); err != nil {
		return fmt.Errorf("GSI %d: %w", i.GSI, explain(err, vm, c))
	}
	return nil
}
