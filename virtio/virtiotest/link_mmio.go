package virtiotest

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/mmio"
)

// mmioBase is where the MMIO link puts the registers.
const mmioBase = 0xd0000000

// MMIO is the link through virtio/mmio, on a bus of its own, with doorbells.
func MMIO() Link { return &mmioLink{} }

type mmioLink struct {
	*mmio.Transport
	bus    bus.Bus
	bells  Doorbells
	queues atomic.Uint64
	config atomic.Uint64
}

func (l *mmioLink) Open(o LinkOptions) (err error) {
	l.Transport, err = mmio.New(mmio.Options{
		Device: o.Device, Mem: o.Mem, Doorbells: &l.bells, Line: mmioLine{l}, Base: mmioBase, Fail: o.Fail,
	})
	if err != nil {
		return err
	}
	return l.bus.Add(bus.Range{Base: mmioBase, Size: mmio.Size, Name: "mmio", Handler: l.Transport})
}

// mmioLine is the driver's interrupt handler: it reads and acknowledges the
// causes, as Linux does.
type mmioLine struct{ l *mmioLink }

func (i mmioLine) Signal() error {
	cause := i.l.read(0x60)
	i.l.write(0x64, cause)
	if cause&1 != 0 {
		i.l.queues.Add(1)
	}
	if cause&2 != 0 {
		i.l.config.Add(1)
	}
	return nil
}

func (l *mmioLink) read(off uint64) uint32 {
	var b [4]byte
	l.bus.Read(mmioBase+off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

func (l *mmioLink) write(off uint64, v uint32) {
	if l.bells.Write(mmioBase+off, 4, v) {
		return
	}
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	l.bus.Write(mmioBase+off, b[:])
}

func (l *mmioLink) Status() virtio.Status     { return virtio.Status(l.read(0x70)) }
func (l *mmioLink) SetStatus(s virtio.Status) { l.write(0x70, uint32(s)) }
func (l *mmioLink) Ring(q int)                { l.write(0x50, uint32(q)) }
func (l *mmioLink) Interrupts(int) uint64     { return l.queues.Load() }
func (l *mmioLink) ConfigInterrupts() uint64  { return l.config.Load() }

func (l *mmioLink) OfferedFeatures() (f virtio.Features) {
	for sel := range uint32(2) {
		l.write(0x14, sel)
		f |= virtio.Features(l.read(0x10)) << (32 * sel)
	}
	return f
}

func (l *mmioLink) AcceptFeatures(f virtio.Features) {
	for sel := range uint32(2) {
		l.write(0x24, sel)
		l.write(0x20, uint32(f>>(32*sel)))
	}
}

func (l *mmioLink) NumQueues() (n int) {
	for l.QueueMax(n) != 0 {
		n++
	}
	return n
}

func (l *mmioLink) QueueMax(i int) uint16 {
	l.write(0x30, uint32(i))
	return uint16(l.read(0x34))
}

func (l *mmioLink) SetupQueue(i int, size uint16, desc, avail, used memory.GPA) {
	l.write(0x30, uint32(i))
	l.write(0x38, uint32(size))
	for off, a := range map[uint64]memory.GPA{0x80: desc, 0x90: avail, 0xa0: used} {
		l.write(off, uint32(a))
		l.write(off+4, uint32(a>>32))
	}
	l.write(0x44, 1)
}

func (l *mmioLink) ReadConfig(off uint32, p []byte) {
	if !l.bus.Read(mmioBase+0x100+uint64(off), p) {
		fill(p)
	}
}

func (l *mmioLink) WriteConfig(off uint32, p []byte) {
	l.bus.Write(mmioBase+0x100+uint64(off), p)
}
