package machine

import (
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/kvm"
)

// irqchip is the section of the interrupt controllers in KVM: two PICs that
// Linux switches off, and the I/O APIC. The local APICs are the vCPUs'. There is
// no PIT.
type irqchip struct{ vm *kvm.VM }

type irqchipV1 struct {
	Master kvm.PICState    `json:"pic_master"`
	Slave  kvm.PICState    `json:"pic_slave"`
	IOAPIC kvm.IOAPICState `json:"ioapic"`
}

func (c *irqchip) StateVersion() uint32 { return 1 }

func (c *irqchip) SaveState() (any, error) {
	var (
		s   irqchipV1
		err error
	)
	if s.Master, err = c.vm.PIC(kvm.IRQChipPICMaster); err != nil {
		return nil, err
	}
	if s.Slave, err = c.vm.PIC(kvm.IRQChipPICSlave); err != nil {
		return nil, err
	}
	s.IOAPIC, err = c.vm.IOAPIC()
	return s, err
}

func (c *irqchip) LoadState(d state.Decoder) error {
	var s irqchipV1
	if err := d.Into(&s); err != nil {
		return err
	}
	if err := c.vm.SetPIC(kvm.IRQChipPICMaster, &s.Master); err != nil {
		return err
	}
	if err := c.vm.SetPIC(kvm.IRQChipPICSlave, &s.Slave); err != nil {
		return err
	}
	return c.vm.SetIOAPIC(&s.IOAPIC)
}
