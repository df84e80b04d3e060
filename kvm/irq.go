package kvm

import (
	"fmt"
	"unsafe"
)

// CreateIRQChip gives the VM in-kernel interrupt controllers: two PICs, an
// IOAPIC and a local APIC for every vCPU made afterwards (KVM_CREATE_IRQCHIP).
// Call it before the first vCPU. For local APICs only, enable CapSplitIRQChip
// instead.
func (vm *VM) CreateIRQChip() error {
	_, err := vm.fd.call(&reqCreateIRQChip, 0)
	return explain(err, vm, CapIRQChip)
}

// irqLevel is struct kvm_irq_level.
type irqLevel struct {
	IRQ   uint32
	Level uint32
}

// SetIRQLine sets the level of a GSI of the in-kernel irqchip (KVM_IRQ_LINE).
// An edge is a true followed by a false.
func (vm *VM) SetIRQLine(gsi uint32, high bool) error {
	l := irqLevel{IRQ: gsi}
	if high {
		l.Level = 1
	}
	return set(&vm.fd, &reqIRQLine, &l)
}

// msi is struct kvm_msi.
type msi struct {
	AddressLo uint32
	AddressHi uint32
	Data      uint32
	Flags     uint32
	DevID     uint32
	Pad       [12]uint8
}

// SignalMSI delivers a message-signalled interrupt without a route
// (KVM_SIGNAL_MSI). delivered is false when the guest blocked it.
func (vm *VM) SignalMSI(addr uint64, data uint32) (delivered bool, err error) {
	m := msi{AddressLo: uint32(addr), AddressHi: uint32(addr >> 32), Data: data}
	n, err := callPtr(&vm.fd, &reqSignalMSI, &m)
	return n > 0, explain(err, vm, CapSignalMSI)
}

// Interrupt controllers of the in-kernel irqchip.
const (
	IRQChipPICMaster = 0 // KVM_IRQCHIP_PIC_MASTER
	IRQChipPICSlave  = 1 // KVM_IRQCHIP_PIC_SLAVE
	IRQChipIOAPIC    = 2 // KVM_IRQCHIP_IOAPIC
)

// IOAPICPins is KVM_IOAPIC_NUM_PINS.
const IOAPICPins = 24

// PICState is struct kvm_pic_state: one 8259A.
type PICState struct {
	LastIRR                uint8
	IRR                    uint8
	IMR                    uint8
	ISR                    uint8
	PriorityAdd            uint8
	IRQBase                uint8
	ReadRegSelect          uint8
	Poll                   uint8
	SpecialMask            uint8
	InitState              uint8
	AutoEOI                uint8
	RotateOnAutoEOI        uint8
	SpecialFullyNestedMode uint8
	Init4                  uint8
	ELCR                   uint8
	ELCRMask               uint8
}

// IOAPICState is struct kvm_ioapic_state. An entry of RedirTbl has the layout
// of the IOAPIC's redirection table register.
type IOAPICState struct {
	BaseAddress uint64
	IORegSel    uint32
	ID          uint32
	IRR         uint32
	Pad         uint32
	RedirTbl    [IOAPICPins]uint64
}

// irqChip is struct kvm_irqchip; Chip is a union of PICState and IOAPICState.
type irqChip struct {
	ChipID uint32
	Pad    uint32
	Chip   [64]uint64
}

// PIC returns the state of IRQChipPICMaster or IRQChipPICSlave
// (KVM_GET_IRQCHIP).
func (vm *VM) PIC(chip uint32) (PICState, error) {
	if err := checkPIC(chip); err != nil {
		return PICState{}, err
	}
	c := irqChip{ChipID: chip}
	err := set(&vm.fd, &reqGetIRQChip, &c)
	// SAFETY: the union is larger than PICState and better aligned.
	return *(*PICState)(unsafe.Pointer(&c.Chip)), err
}

// SetPIC sets the state of IRQChipPICMaster or IRQChipPICSlave
// (KVM_SET_IRQCHIP).
func (vm *VM) SetPIC(chip uint32, s *PICState) error {
	if err := checkPIC(chip); err != nil {
		return err
	}
	c := irqChip{ChipID: chip}
	// SAFETY: as in PIC.
	*(*PICState)(unsafe.Pointer(&c.Chip)) = *s
	return set(&vm.fd, &reqSetIRQChip, &c)
}

func checkPIC(chip uint32) error {
	if chip != IRQChipPICMaster && chip != IRQChipPICSlave {
		return fmt.Errorf("irqchip %d is not a PIC", chip)
	}
	return nil
}

// IOAPIC returns the state of the in-kernel IOAPIC (KVM_GET_IRQCHIP).
func (vm *VM) IOAPIC() (IOAPICState, error) {
	c := irqChip{ChipID: IRQChipIOAPIC}
	err := set(&vm.fd, &reqGetIRQChip, &c)
	// SAFETY: the union is larger than IOAPICState and as well aligned.
	return *(*IOAPICState)(unsafe.Pointer(&c.Chip)), err
}

// SetIOAPIC sets the state of the in-kernel IOAPIC (KVM_SET_IRQCHIP).
func (vm *VM) SetIOAPIC(s *IOAPICState) error {
	c := irqChip{ChipID: IRQChipIOAPIC}
	// SAFETY: as in IOAPIC.
	*(*IOAPICState)(unsafe.Pointer(&c.Chip)) = *s
	return set(&vm.fd, &reqSetIRQChip, &c)
}
