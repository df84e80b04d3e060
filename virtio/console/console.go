package console

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hvctl/hvctl/virtio"
)

const (
	featSize virtio.Features = 1 << 0 // §5.3.3

	queueIn, queueOut = 0, 1
	queueSize         = 64

	defaultBuffer = 64 << 10
	minBuffer     = 256
	maxBuffer     = 16 << 20
	inputBuffer   = 4 << 10 // a terminal's line buffer
)

// Options make a Device.
type Options struct {
	Out io.Writer // takes the guest's output; nil drops it
	In  io.Reader // what the guest reads; nil is nothing but Feed
	// Wait makes the guest wait when Buffer bytes of output wait for Out;
	// otherwise the oldest of them are dropped.
	Wait   bool
	Buffer int // bytes; 0 is 64 KiB
	// Columns and Rows are the size at first; 0 is not known.
	Columns, Rows uint16
}

// Metrics are the counters of the device, seen from the guest.
type Metrics struct {
	Out     atomic.Uint64 `metric:"out_bytes_total,bytes"`
	Dropped atomic.Uint64 `metric:"out_dropped_bytes_total,bytes"`
	In      atomic.Uint64 `metric:"in_bytes_total,bytes"`
}

// Device is the console device. Besides the core, any goroutine may call Feed,
// SetSize and Metrics.
type Device struct {
	o       Options
	metrics Metrics
	out     output
	in      input

	mu         sync.Mutex // guards what follows
	env        *virtio.Env
	cols, rows uint16
}

// New makes a console device. It starts using Out and In at once.
func New(o Options) (*Device, error) {
	if o.Buffer == 0 {
		o.Buffer = defaultBuffer
	}
	if o.Buffer < minBuffer || o.Buffer > maxBuffer {
		return nil, fmt.Errorf("%w: console buffer of %d bytes, %d to %d are possible", virtio.ErrArgs, o.Buffer, minBuffer, maxBuffer)
	}
	d := &Device{o: o, cols: o.Columns, rows: o.Rows}
	d.out.init(o, &d.metrics, func() { d.kick(queueOut) })
	d.in.init()
	go d.out.pump()
	if o.In != nil {
		go d.pumpIn()
	}
	return d, nil
}

// Info describes the device.
func (d *Device) Info() virtio.Info {
	return virtio.Info{ID: virtio.IDConsole, Features: featSize, QueueSizes: []uint16{queueSize, queueSize}, ConfigLen: configLen}
}

// Activate keeps env; the workers look at what is waiting by themselves.
func (d *Device) Activate(_ context.Context, env *virtio.Env) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env = env
	return nil
}

func (d *Device) kick(queue int) {
	d.mu.Lock()
	env := d.env
	d.mu.Unlock()
	if env != nil {
		env.Kick(queue)
	}
}

// HandleQueue serves one of the two queues.
func (d *Device) HandleQueue(_ context.Context, q *virtio.Queue) error {
	if q.Index() == queueIn {
		return d.in.serve(q, &d.metrics)
	}
	return d.out.serve(q)
}

// Reset forgets a half-sent buffer. Input stays: it was typed for the guest,
// not for one of its drivers.
func (d *Device) Reset() {
	d.mu.Lock()
	d.env = nil
	d.mu.Unlock()
	d.out.sent = 0
}

// SetSize tells the driver the size of the terminal.
func (d *Device) SetSize(columns, rows uint16) {
	d.mu.Lock()
	changed := d.cols != columns || d.rows != rows
	d.cols, d.rows = columns, rows
	env := d.env
	d.mu.Unlock()
	if changed && env != nil && env.Features.Has(featSize) {
		env.ConfigChanged()
	}
}

// Feed types p. It blocks while the guest does not read what was typed before,
// and returns less than len(p) with io.ErrClosedPipe after Close.
func (d *Device) Feed(p []byte) (n int, err error) {
	for len(p) > 0 {
		k := d.in.put(p)
		if k == 0 {
			return n, io.ErrClosedPipe
		}
		n, p = n+k, p[k:]
		d.kick(queueIn)
	}
	return n, nil
}

func (d *Device) pumpIn() {
	buf := make([]byte, inputBuffer)
	for {
		n, err := d.o.In.Read(buf)
		if _, ferr := d.Feed(buf[:n]); ferr != nil || err != nil {
			return
		}
	}
}

// Close ends the device. Output that waits is still written, if Out takes it
// soon. In is left to its owner, who ends a Read that hangs.
func (d *Device) Close() error {
	d.in.close()
	d.out.close()
	return nil
}

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }

// configLen is the length of struct virtio_console_config (§5.3.4).
const configLen = 12

// ReadConfig fills p with the bytes at off.
func (d *Device) ReadConfig(p []byte, off uint32) {
	var c [configLen]byte
	d.mu.Lock()
	binary.LittleEndian.PutUint16(c[0:], d.cols)
	binary.LittleEndian.PutUint16(c[2:], d.rows)
	d.mu.Unlock()
	binary.LittleEndian.PutUint32(c[4:], 1) // ports
	copy(p, c[off:])
}

// WriteConfig ignores p: nothing is writable without EMERG_WRITE.
func (d *Device) WriteConfig([]byte, uint32) {}
