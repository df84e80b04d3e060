package machine

import (
	"bytes"
	"encoding/binary"

	"github.com/hvctl/hvctl/internal/acpi"
)

// vmClock is the VM clock's structure in guest memory (UAPI.13; in Linux
// include/uapi/linux/vmclock-abi.h), little-endian, without padding. It tells a
// guest that its counter has had a break, or that it is a copy. It offers no
// time: that would take a host whose own clock is as good as it says.
type vmClock struct {
	Magic   uint32
	Size    uint32
	Version uint16
	Counter uint8
	Type    uint8
	// From here on fields may change. Sequence is odd while they do.
	Sequence   uint32
	Disruption uint64
	Flags      uint64
	_          [0x48]byte // a status of 0, unknown, and no time
	Generation uint64     // 0x68
}

const (
	vmClockMagic     = 0x4b4c4356 // VCLK
	vmClockNoCounter = 0xff
	vmClockTAI       = 1
	vmClockFlags     = 1<<7 | 1<<8 // there is a generation, and it is notified
)

// writeVMClock makes the structure for a guest that boots.
func (m *Machine) writeVMClock() error {
	return m.putVMClock(&vmClock{
		Magic: vmClockMagic, Size: acpi.VMClockSize, Version: 1, Counter: vmClockNoCounter, Type: vmClockTAI, Flags: vmClockFlags,
	})
}

func (m *Machine) putVMClock(c *vmClock) error {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, c) // a buffer takes all
	return m.mem.WriteAt(b.Bytes(), vmClockAddr)
}

// changeVMClock changes the structure between two even sequences. No vCPU runs
// meanwhile. A guest without one, for it was saved by an hvctl that had none or
// has written over it, is left as it is.
func (m *Machine) changeVMClock(change func(*vmClock)) error {
	var c vmClock
	b := make([]byte, binary.Size(c))
	if err := m.mem.ReadAt(b, vmClockAddr); err != nil {
		return err
	}
	_ = binary.Read(bytes.NewReader(b), binary.LittleEndian, &c) // b is as long
	if c.Magic != vmClockMagic || c.Version != 1 {
		return nil
	}
	change(&c)
	c.Sequence = c.Sequence&^1 + 2
	if err := m.putVMClock(&c); err != nil {
		return err
	}
	return m.power.event(acpi.GEDEventVMClock)
}

// disrupt tells the guest that its counter, and with it its time, has had a break:
// it has come from another machine.
func (m *Machine) disrupt() error {
	return m.changeVMClock(func(c *vmClock) { c.Disruption++ })
}
