package pci

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/virtio"
)

// Fields of the common configuration structure (§4.1.4.3).
const (
	regDeviceFeatureSel = 0x00
	regDeviceFeature    = 0x04
	regDriverFeatureSel = 0x08
	regDriverFeature    = 0x0c
	regConfigVector     = 0x10
	regNumQueues        = 0x12
	regStatus           = 0x14
	regGeneration       = 0x15
	regQueueSel         = 0x16
	regQueueSize        = 0x18
	regQueueVector      = 0x1a
	regQueueEnable      = 0x1c
	regQueueNotifyOff   = 0x1e
	regQueueDesc        = 0x20
	regQueueDriver      = 0x28
	regQueueDevice      = 0x30
)

// width of each field; the 64-bit ones are accessed as two halves (§4.1.3.1).
var width = map[uint64]int{
	regDeviceFeatureSel: 4, regDeviceFeature: 4, regDriverFeatureSel: 4, regDriverFeature: 4,
	regConfigVector: 2, regNumQueues: 2, regStatus: 1, regGeneration: 1,
	regQueueSel: 2, regQueueSize: 2, regQueueVector: 2, regQueueEnable: 2, regQueueNotifyOff: 2,
	regQueueDesc: 4, regQueueDesc + 4: 4, regQueueDriver: 4, regQueueDriver + 4: 4,
	regQueueDevice: 4, regQueueDevice + 4: 4,
}

// ReadAt answers a guest's read of the BAR. What is not a register leaves data
// as it is.
func (t *Transport) ReadAt(off uint64, data []byte) {
	n := uint64(len(data))
	switch {
	case off < offCommon+lenCommon:
		t.readCommon(off-offCommon, data)
	case off >= offISR && off < offISR+lenISR:
		clear(data)
		if off == offISR {
			data[0] = byte(t.isr.Swap(0)) // reading clears (§4.1.4.5)
		}
	case off >= offDevice && off < offDevice+lenDevice:
		t.core.ReadConfig(data, off-offDevice)
	case off >= offTable && off+n <= offTable+lenTable:
		t.msix.readTable(off-offTable, data)
	case off >= offPBA && off+n <= barSize:
		t.msix.readPBA(off-offPBA, data)
	}
}

// WriteAt takes a guest's write.
func (t *Transport) WriteAt(off uint64, data []byte) {
	switch {
	case off < offCommon+lenCommon:
		t.writeCommon(off-offCommon, data)
	case off >= offDevice && off < offDevice+lenDevice:
		t.core.WriteConfig(data, off-offDevice)
	case off >= offNotify && off < offNotify+lenNotify:
		if off%multiplier == 0 {
			t.core.Notify(int(off-offNotify) / multiplier)
		}
	case off >= offTable && off < offTable+lenTable:
		t.msix.writeTable(off-offTable, data)
	}
}

func (t *Transport) readCommon(off uint64, data []byte) {
	if len(data) == 8 && off >= regQueueDesc && off%8 == 0 {
		t.readCommon(off, data[:4])
		t.readCommon(off+4, data[4:])
		return
	}
	if width[off] != len(data) {
		return
	}
	v := t.common(off)
	switch len(data) {
	case 1:
		data[0] = byte(v)
	case 2:
		binary.LittleEndian.PutUint16(data, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(data, v)
	}
}

// queue returns the selected queue; one that is not there has size 0 and
// ignores writes.
func (t *Transport) queue() int { return int(t.queueSel.Load()) }

// common returns the value of a field.
func (t *Transport) common(off uint64) uint32 {
	c, q := t.core, t.queue()
	switch off {
	case regDeviceFeatureSel:
		return t.deviceSel.Load()
	case regDeviceFeature:
		return c.DeviceFeatures(t.deviceSel.Load())
	case regDriverFeatureSel:
		return t.driverSel.Load()
	case regDriverFeature:
		return c.DriverFeatures(t.driverSel.Load())
	case regConfigVector:
		return uint32(t.vector(-1))
	case regNumQueues:
		return uint32(c.NumQueues())
	case regStatus:
		return uint32(c.Status())
	case regGeneration:
		return c.Generation()
	case regQueueSel:
		return t.queueSel.Load()
	case regQueueSize:
		return uint32(c.QueueSize(q))
	case regQueueVector:
		return uint32(t.vector(q))
	case regQueueEnable:
		if c.QueueEnabled(q) {
			return 1
		}
		return 0
	case regQueueNotifyOff:
		if q < c.NumQueues() {
			return uint32(q)
		}
		return 0
	}
	a := c.QueueAddr(q, part(off))
	if off%8 != 0 {
		a >>= 32
	}
	return uint32(a)
}

func part(off uint64) virtio.RingPart {
	switch off &^ 7 {
	case regQueueDriver:
		return virtio.PartAvail
	case regQueueDevice:
		return virtio.PartUsed
	}
	return virtio.PartDesc
}

func (t *Transport) writeCommon(off uint64, data []byte) {
	if len(data) == 8 && off >= regQueueDesc && off%8 == 0 {
		t.writeCommon(off, data[:4])
		t.writeCommon(off+4, data[4:])
		return
	}
	if width[off] != len(data) {
		return
	}
	var b [4]byte
	copy(b[:], data)
	t.setCommon(off, binary.LittleEndian.Uint32(b[:]))
}

func (t *Transport) setCommon(off uint64, v uint32) {
	c, q := t.core, t.queue()
	switch off {
	case regDeviceFeatureSel:
		t.deviceSel.Store(v)
	case regDriverFeatureSel:
		t.driverSel.Store(v)
	case regDriverFeature:
		c.SetDriverFeatures(t.driverSel.Load(), v)
	case regConfigVector:
		t.setVector(-1, uint16(v))
	case regStatus:
		c.SetStatus(uint8(v))
	case regQueueSel:
		t.queueSel.Store(v)
	case regQueueSize:
		c.SetQueueSize(q, uint16(v))
	case regQueueVector:
		t.setVector(q, uint16(v))
	case regQueueEnable:
		if v == 1 { // §4.1.4.3.2: writing 0 is forbidden
			c.EnableQueue(q)
		}
	case regQueueDesc, regQueueDesc + 4, regQueueDriver, regQueueDriver + 4, regQueueDevice, regQueueDevice + 4:
		c.SetQueueAddr(q, part(off), off%8 != 0, v)
	}
}

// vector returns the MSI-X vector of queue q, or of configuration changes when
// q is -1.
func (t *Transport) vector(q int) uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case q == -1:
		return t.configVector
	case q < len(t.queueVector):
		return t.queueVector[q]
	}
	return noVector
}

// setVector maps a cause to vector v; one that is not in the table reads back as
// NO_VECTOR (§4.1.5.1.2.2).
func (t *Transport) setVector(q int, v uint16) {
	if int(v) >= t.msix.len() {
		v = noVector
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case q == -1:
		t.configVector = v
	case q < len(t.queueVector) && v != t.queueVector[q]:
		t.wire(q, v, t.calls[q])
	}
}

// wire gives queue q the vector v, and has the kernel raise it for signals of
// call if there is one. mu is held.
func (t *Transport) wire(q int, v uint16, call *eventfd.EventFD) {
	if old := t.calls[q]; old != nil {
		t.msix.unbind(t.queueVector[q], old)
	}
	t.queueVector[q], t.calls[q] = v, call
	if call != nil {
		t.msix.bind(v, call)
	}
}
