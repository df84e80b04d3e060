package mmio

import (
	"math"

	"github.com/hvctl/hvctl/virtio"
)

// Register offsets (§4.2.2, table 4.1).
const (
	regMagic             = 0x000
	regVersion           = 0x004
	regDeviceID          = 0x008
	regVendorID          = 0x00c
	regDeviceFeatures    = 0x010
	regDeviceFeaturesSel = 0x014
	regDriverFeatures    = 0x020
	regDriverFeaturesSel = 0x024
	regQueueSel          = 0x030
	regQueueSizeMax      = 0x034
	regQueueSize         = 0x038
	regQueueReady        = 0x044
	regQueueNotify       = 0x050
	regInterruptStatus   = 0x060
	regInterruptACK      = 0x064
	regStatus            = 0x070
	regQueueDescLow      = 0x080
	regQueueDescHigh     = 0x084
	regQueueDriverLow    = 0x090
	regQueueDriverHigh   = 0x094
	regQueueDeviceLow    = 0x0a0
	regQueueDeviceHigh   = 0x0a4
	regSHMLenLow         = 0x0b0
	regSHMLenHigh        = 0x0b4
	regSHMBaseLow        = 0x0b8
	regSHMBaseHigh       = 0x0bc
	regConfigGeneration  = 0x0fc
	regConfig            = 0x100
)

const (
	magic    = 0x74726976 // "virt"
	version  = 2
	vendorID = 0x54435648 // "HVCT"
)

// queue returns the selected queue; one out of range has maximum size 0 and
// ignores writes.
func (t *Transport) queue() int {
	return int(min(t.queueSel.Load(), math.MaxInt32))
}

// read returns the value of a register; those that are write-only or unknown
// read as 0.
func (t *Transport) read(off uint64) uint32 {
	c := t.core
	switch off {
	case regMagic:
		return magic
	case regVersion:
		return version
	case regDeviceID:
		return uint32(c.Info().ID)
	case regVendorID:
		return vendorID
	case regDeviceFeatures:
		return c.DeviceFeatures(t.deviceSel.Load())
	case regQueueSizeMax:
		return uint32(c.QueueMax(t.queue()))
	case regQueueReady:
		if c.QueueEnabled(t.queue()) {
			return 1
		}
		return 0
	case regInterruptStatus:
		return t.interrupts.Load()
	case regStatus:
		return uint32(c.Status())
	case regSHMLenLow, regSHMLenHigh, regSHMBaseLow, regSHMBaseHigh:
		return math.MaxUint32 // §4.2.2: no such region
	case regConfigGeneration:
		return c.Generation()
	}
	return 0
}

func (t *Transport) write(off uint64, v uint32) {
	c := t.core
	switch off {
	case regDeviceFeaturesSel:
		t.deviceSel.Store(v)
	case regDriverFeatures:
		c.SetDriverFeatures(t.driverSel.Load(), v)
	case regDriverFeaturesSel:
		t.driverSel.Store(v)
	case regQueueSel:
		t.queueSel.Store(v)
	case regQueueSize:
		c.SetQueueSize(t.queue(), uint16(min(v, math.MaxUint16)))
	case regQueueReady:
		if v&1 != 0 {
			c.EnableQueue(t.queue())
		} else {
			c.DisableQueue(t.queue())
		}
	case regQueueNotify:
		c.Notify(int(min(v, math.MaxInt32)))
	case regInterruptACK:
		t.interrupts.And(^v)
	case regStatus:
		if v <= math.MaxUint8 {
			c.SetStatus(uint8(v))
		}
	case regQueueDescLow, regQueueDescHigh:
		c.SetQueueAddr(t.queue(), virtio.PartDesc, off == regQueueDescHigh, v)
	case regQueueDriverLow, regQueueDriverHigh:
		c.SetQueueAddr(t.queue(), virtio.PartAvail, off == regQueueDriverHigh, v)
	case regQueueDeviceLow, regQueueDeviceHigh:
		c.SetQueueAddr(t.queue(), virtio.PartUsed, off == regQueueDeviceHigh, v)
	}
}
