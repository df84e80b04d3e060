package machine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// mapped is a device with memory of its own, which the guest reaches by its
// address. What the guest does there nobody here sees, and it is in no dirty log.
type mapped interface {
	// Mapping is what the guest finds; the size is a multiple of 2 MiB. It lives
	// until the device is closed.
	Mapping() (mem []byte, readOnly bool)
	// Place tells the device where that is.
	Place(at memory.GPA)
	// Lost tells why the guest's accesses may fail, or nil.
	Lost() error
}

const (
	// slotMapped is the first memory slot of devices' memory; RAM has those before.
	slotMapped = 16
	// mappedAlign is where such memory begins: Linux adds and removes memory in
	// sections of 128 MiB, and maps 1 GiB by one entry of its page tables.
	mappedAlign = 1 << 30
)

// place puts a device's memory behind the RAM, and behind that of the devices
// before it. The places follow from the configuration, so that a machine that is
// restored has the same.
func (m *Machine) place(dev virtio.Device) error {
	d, ok := dev.(mapped)
	if !ok {
		return nil
	}
	mem, readOnly := d.Mapping()
	if m.nextMapped == 0 {
		m.nextMapped = memory.HoleEnd
		if r := m.mem.Regions(); len(r) > 1 {
			last := r[len(r)-1]
			m.nextMapped = last.GPA + memory.GPA(last.Size)
		}
	}
	at := (m.nextMapped + mappedAlign - 1) &^ (mappedAlign - 1)
	if at > pci64Base || uint64(len(mem)) > uint64(pci64Base-at) {
		return fmt.Errorf("%w: there is no room for its %d MiB behind the memory: both have to fit into %d GiB", ErrConfig, len(mem)>>20, pci64Base>>30)
	}
	var flags uint32
	if readOnly {
		flags = kvm.MemReadonly
	}
	if err := m.vm.SetMemorySlot(slotMapped+m.mappedSlots, flags, uint64(at), mem); err != nil {
		return err
	}
	m.mappedSlots++
	m.nextMapped = at + memory.GPA(len(mem))
	m.mem.Lend(at, mem, readOnly)
	d.Place(at)
	return nil
}

// unplace takes all of that away, before the devices unmap it.
func (m *Machine) unplace() (err error) {
	for ; m.mappedSlots > 0; m.mappedSlots-- {
		err = errors.Join(err, m.vm.DeleteMemorySlot(slotMapped+m.mappedSlots-1))
	}
	return err
}

// explain adds to an error of KVM's, or of a device, why memory may be missing that it needed.
func (m *Machine) explain(err error) error {
	if !errors.Is(err, unix.EFAULT) && !errors.Is(err, unix.EHWPOISON) {
		return err
	}
	for _, d := range m.devices {
		if p, ok := d.core.Device().(mapped); ok {
			if why := p.Lost(); why != nil {
				return fmt.Errorf("%w: device %s: %w", err, d.id, why)
			}
		}
	}
	return m.lacked(err)
}
