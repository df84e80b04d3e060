package vsock

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

const (
	rxQueue, txQueue, eventQueue = 0, 1, 2
	queueSize                    = 128
	eventQueueSize               = 16
	configSize                   = 8

	maxConns   = 1024
	backlogMax = 64   // connections of one listener that wait for Accept
	maxResets  = 1024 // resets that wait for the driver's buffers; then the tx queue rests
	// windowMin is what every connection may buffer towards its reader, in
	// bytes, and windowMax what the first ones may, until the rest of
	// maxPromised is needed for the others' windowMin.
	windowMin   = 64 << 10
	windowMax   = 256 << 10
	maxPromised = maxConns*windowMin + 16<<20
	// closeTimeout is how long a closed connection waits for the guest's
	// reset (§5.10.6.5); Linux waits as long.
	closeTimeout = 8 * time.Second
)

// Options says what device to make.
type Options struct {
	CID uint64       // the guest's; 3 to 2^32-2
	Log *slog.Logger // nil discards
}

// Metrics are the counters of the device.
type Metrics struct {
	RxBytes   atomic.Uint64 `metric:"to_guest_bytes_total,bytes"`
	TxBytes   atomic.Uint64 `metric:"from_guest_bytes_total,bytes"`
	RxPackets atomic.Uint64 `metric:"to_guest_packets_total,1"`
	TxPackets atomic.Uint64 `metric:"from_guest_packets_total,1"`
	Resets    atomic.Uint64 `metric:"resets_sent_total,1"`
	Refused   atomic.Uint64 `metric:"refused_packets_total,1"`
	Opened    atomic.Uint64 `metric:"connections_total,1"`
}

// Device is a virtio socket device. Listen, Dial and the connections may be
// used from any goroutine, before the guest has a driver and after it is gone.
type Device struct {
	cid          uint64
	log          *slog.Logger
	closeTimeout time.Duration
	metrics      Metrics

	mu        sync.Mutex  // guards what follows and every Conn and Listener
	env       *virtio.Env // nil while there is no driver
	closed    bool
	conns     map[key]*Conn // those the guest may know
	live      int           // connections that hold a slot: the guest or the host's side has not let go
	promised  int           // sum of their windows
	pool      pool
	listeners map[uint32]*Listener
	rest      *Listener  // takes what no listener does; nil when there is no bridge
	resets    resetQueue // to the driver, before anything else
	ready     connList   // connections that have something for the driver
	kicked    bool       // the rx worker will look for work anyway
	stalled   bool       // the tx queue rests until there are fewer resets
	nextPort  uint32     // where Dial looks for a free port

	// After a restore the driver has to drop the connections it remembers
	// before it hears of new ones (§5.10.6.7).
	event  bool // the transport reset event is due
	gated  bool // nothing goes to the driver until it has acted on that event
	posted int  // event buffers the driver had left when the event was delivered
}

// New makes a device. Errors wrap virtio.ErrArgs.
func New(o Options) (*Device, error) {
	if err := checkCID(o.CID); err != nil {
		return nil, err
	}
	d := &Device{
		cid: o.CID, log: o.Log, closeTimeout: closeTimeout,
		conns: map[key]*Conn{}, listeners: map[uint32]*Listener{},
		// A restored guest may still hold sockets of connections that its
		// last host dialed: begin elsewhere.
		nextPort: firstHostPort + rand.Uint32N(anyPort-firstHostPort),
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d, nil
}

func checkCID(cid uint64) error {
	if cid <= hostCID || cid >= 1<<32-1 {
		return fmt.Errorf("%w: guest CID %d; 3 to %d are possible", virtio.ErrArgs, cid, uint32(1<<32-2))
	}
	return nil
}

// Info describes the three queues (§5.10.2). Without feature bits the device
// has stream sockets only (§5.10.3).
func (d *Device) Info() virtio.Info {
	return virtio.Info{ID: virtio.IDVsock, QueueSizes: []uint16{queueSize, queueSize, eventQueueSize}, ConfigLen: configSize}
}

// ReadConfig implements virtio.ConfigSpace: the guest's CID (§5.10.4).
func (d *Device) ReadConfig(p []byte, off uint32) { readCID(d.cid, p, off) }

// WriteConfig ignores the write: the CID is ours.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate starts to use the driver's buffers.
func (d *Device) Activate(_ context.Context, env *virtio.Env) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env = env
	return nil
}

// Reset drops every connection the driver may know of. Listeners stay, and so
// do Dials that wait for a driver: they are for the next one.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		if c.due&dueRequest == 0 {
			d.drop(c, unix.ECONNRESET)
		}
	}
	d.resets = resetQueue{}
	d.env, d.kicked, d.stalled, d.event, d.gated = nil, false, false, false, false
}

// Close ends every connection and listener; Listen and Dial fail from now on.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed, d.env = true, nil
	for _, c := range d.conns {
		d.drop(c, net.ErrClosed)
	}
	for _, l := range d.listeners {
		l.close()
	}
	if d.rest != nil {
		d.rest.close()
	}
	return nil
}

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }

type stateV1 struct{ CID uint64 }

// StateVersion returns 1.
func (d *Device) StateVersion() uint32 { return 1 }

// SaveState returns the CID: connections end at a restore.
func (d *Device) SaveState() (any, error) { return stateV1{d.cid}, nil }

// LoadState makes the driver drop the connections it remembers.
func (d *Device) LoadState(dec state.Decoder) error {
	if err := loadCID(dec, d.cid); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.event, d.gated = true, true
	return nil
}

// loadCID checks that the saved device was the one with cid.
func loadCID(dec state.Decoder, cid uint64) error {
	var s stateV1
	if err := dec.Into(&s); err != nil {
		return err
	}
	if s.CID != cid {
		return fmt.Errorf("%w: the guest knew itself as CID %d, this device is %d", virtio.ErrState, s.CID, cid)
	}
	return nil
}

func readCID(cid uint64, p []byte, off uint32) {
	var b [configSize]byte
	binary.LittleEndian.PutUint64(b[:], cid)
	copy(p, b[off:])
}
