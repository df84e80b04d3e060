package mmio

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Size is the length of the register range in bytes: the registers and 256
// bytes of device configuration.
const Size = 0x200

// Line is the device's interrupt: each Signal is one edge. It is called from
// any goroutine and does not block.
type Line interface {
	Signal() error
}

// Options says what to make. All but Log and Fail are required.
type Options struct {
	Device    virtio.Device
	Mem       *memory.Guest
	Doorbells virtio.Doorbells
	Line      Line
	Base      memory.GPA   // of the register range, for the doorbells; it never moves
	Log       *slog.Logger // nil discards
	Fail      func(error)  // the machine cannot go on; see virtio.CoreOptions
}

// Transport is one device behind MMIO registers. It is a virtio.Transport.
type Transport struct {
	core  *virtio.Core
	bells virtio.Doorbells
	line  Line
	base  memory.GPA
	log   *slog.Logger
	rung  []bool // doorbells in place; guarded by the core's lock

	// What the driver selected, and what it has not acknowledged.
	deviceSel, driverSel, queueSel atomic.Uint32
	interrupts                     atomic.Uint32
}

// Interrupt causes (§4.2.2, InterruptStatus).
const (
	causeQueue  = 1
	causeConfig = 2
)

// New makes the transport and takes the device over: Close closes both.
func New(o Options) (*Transport, error) {
	t := &Transport{bells: o.Doorbells, line: o.Line, base: o.Base, log: o.Log}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	core, err := virtio.NewCore(virtio.CoreOptions{
		Device: o.Device, Mem: o.Mem, Interrupt: interrupt{t}, Log: t.log, Fail: o.Fail,
		Activated: t.addDoorbells, Deactivated: t.removeDoorbells, OnReset: t.reset,
	})
	if err != nil {
		return nil, err
	}
	t.core = core
	t.rung = make([]bool, core.NumQueues())
	return t, nil
}

// Core returns the device behind the registers, for metrics and inspection.
func (t *Transport) Core() *virtio.Core { return t.core }

// The registers that whoever runs the vCPUs may serve itself, as reads of Causes
// and as clearing bits in it (§4.2.2).
const (
	InterruptStatus = regInterruptStatus
	InterruptACK    = regInterruptACK
)

// Causes are why the driver is interrupted, and has not acknowledged yet.
func (t *Transport) Causes() *atomic.Uint32 { return &t.interrupts }

// Notify does what a write of QueueNotify does.
func (t *Transport) Notify(queue int) { t.core.Notify(queue) }

// Stop pauses the device; see virtio.Core.Stop.
func (t *Transport) Stop(ctx context.Context) error { return t.core.Stop(ctx) }

// Start resumes the device; see virtio.Core.Start.
func (t *Transport) Start() error { return t.core.Start() }

// Close stops the device for good; see virtio.Core.Close.
func (t *Transport) Close() error { return t.core.Close() }

// reset clears what the core does not know.
func (t *Transport) reset() {
	t.deviceSel.Store(0)
	t.driverSel.Store(0)
	t.queueSel.Store(0)
	t.interrupts.Store(0)
}

// addDoorbells asks for an eventfd signal instead of an exit for each queue.
// Where that fails the exit still reaches WriteAt, so it is only slower.
func (t *Transport) addDoorbells() {
	for i := range t.rung {
		match := uint32(i)
		if err := t.bells.Add(uint64(t.base)+regQueueNotify, 4, &match, t.core.Doorbell(i)); err != nil {
			t.log.Warn("doorbell not registered", "queue", i, "err", err)
			continue
		}
		t.rung[i] = true
	}
}

func (t *Transport) removeDoorbells() {
	for i, in := range t.rung {
		if !in {
			continue
		}
		match := uint32(i)
		if err := t.bells.Remove(uint64(t.base)+regQueueNotify, 4, &match, t.core.Doorbell(i)); err != nil {
			t.log.Warn("doorbell not removed", "queue", i, "err", err)
		}
		t.rung[i] = false
	}
}

// interrupt is the virtio.Interrupt of a Transport. The line is signalled even
// when the cause was pending: the driver may already have read the status.
type interrupt struct{ t *Transport }

func (i interrupt) Queue(int) error { return i.raise(causeQueue) }
func (i interrupt) Config() error   { return i.raise(causeConfig) }
func (i interrupt) raise(cause uint32) error {
	i.t.interrupts.Or(cause)
	return i.t.line.Signal()
}

// ReadAt answers a guest's read. Registers are 32 bits, aligned; other accesses
// below the configuration space leave data as it is (§4.2.2.2).
func (t *Transport) ReadAt(off uint64, data []byte) {
	if off >= regConfig {
		t.core.ReadConfig(data, off-regConfig)
		return
	}
	if len(data) == 4 && off%4 == 0 {
		binary.LittleEndian.PutUint32(data, t.read(off))
	}
}

// WriteAt takes a guest's write; accesses of other shapes are dropped.
func (t *Transport) WriteAt(off uint64, data []byte) {
	if off >= regConfig {
		t.core.WriteConfig(data, off-regConfig)
		return
	}
	if len(data) == 4 && off%4 == 0 {
		t.write(off, binary.LittleEndian.Uint32(data))
	}
}

// stateV1 is the section of a Transport. The base address is configuration.
type stateV1 struct {
	Core       virtio.CoreState `json:"core"`
	DeviceSel  uint32           `json:"device_features_sel"`
	DriverSel  uint32           `json:"driver_features_sel"`
	QueueSel   uint32           `json:"queue_sel"`
	Interrupts uint32           `json:"interrupt_status"`
}

// StateVersion returns 1.
func (t *Transport) StateVersion() uint32 { return 1 }

// SaveState returns the registers. Preconditions: stopped.
func (t *Transport) SaveState() (any, error) {
	core, err := t.core.SaveState()
	if err != nil {
		return nil, err
	}
	return stateV1{
		Core: core, DeviceSel: t.deviceSel.Load(), DriverSel: t.driverSel.Load(),
		QueueSel: t.queueSel.Load(), Interrupts: t.interrupts.Load(),
	}, nil
}

// LoadState sets the registers of a new transport. Errors wrap
// virtio.ErrState or state.ErrCorrupt; then nothing changed.
func (t *Transport) LoadState(d state.Decoder) error {
	var s stateV1
	if err := d.Into(&s); err != nil {
		return err
	}
	if err := t.core.LoadState(s.Core); err != nil {
		return err
	}
	t.deviceSel.Store(s.DeviceSel)
	t.driverSel.Store(s.DriverSel)
	t.queueSel.Store(s.QueueSel)
	t.interrupts.Store(s.Interrupts & (causeQueue | causeConfig))
	return nil
}
