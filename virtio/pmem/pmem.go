package pmem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

const (
	queueSize               = 64
	configLen               = 16 // struct virtio_pmem_config (§5.19.4)
	reqFlush                = 0  // VIRTIO_PMEM_REQ_TYPE_FLUSH (§5.19.6)
	requestSize, answerSize = 4, 4
	respOK                  = 0
	respError               = 1 // VIRTIO_PMEM_RESP_TYPE_EIO
)

// Metrics are the counters of the device.
type Metrics struct {
	Flushes atomic.Uint64 `metric:"flushes_total,1"`
	Syncs   atomic.Uint64 `metric:"syncs_total,1"`
	Errors  atomic.Uint64 `metric:"sync_errors_total,1"`
}

// Device is one file. Besides the core, whoever makes the machine calls Mapping
// and Place before the guest runs.
type Device struct {
	f        *os.File
	size     uint64 // bytes of the file
	readOnly bool
	mapping  *memory.Mapping
	base     memory.GPA
	metrics  Metrics
	sync     func() error // of the file; tests have another
}

// Options make a Device.
type Options struct {
	Path     string // of a regular file
	ReadOnly bool   // the guest cannot write
}

// New opens, locks and maps the file. Errors wrap ErrFile or ErrLocked.
func New(o Options) (*Device, error) {
	f, size, err := open(o)
	if err != nil {
		return nil, err
	}
	m, err := memory.MapFile(f, size, !o.ReadOnly)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Device{f: f, size: size, readOnly: o.ReadOnly, mapping: m, sync: f.Sync}, nil
}

// Info describes the one queue.
func (d *Device) Info() virtio.Info {
	return virtio.Info{ID: virtio.IDPmem, QueueSizes: []uint16{queueSize}, ConfigLen: configLen}
}

// Mapping is what the guest is to find at the place that Place names: a multiple
// of 2 MiB, without the right to write if readOnly. It stays the device's.
func (d *Device) Mapping() (m []byte, readOnly bool) { return d.mapping.Bytes(), d.readOnly }

// Place tells where the guest finds the file. It is called once, before the
// device is used.
func (d *Device) Place(at memory.GPA) { d.base = at }

// ReadConfig fills p with the bytes at off.
func (d *Device) ReadConfig(p []byte, off uint32) {
	var c [configLen]byte
	binary.LittleEndian.PutUint64(c[0:], uint64(d.base))
	binary.LittleEndian.PutUint64(c[8:], uint64(len(d.mapping.Bytes())))
	copy(p, c[off:])
}

// WriteConfig does nothing: all fields are read-only.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate has nothing to start.
func (d *Device) Activate(context.Context, *virtio.Env) error { return nil }

// HandleQueue answers the flushes that are waiting by one sync of the file.
func (d *Device) HandleQueue(_ context.Context, q *virtio.Queue) error {
	for {
		var waiting []virtio.Chain
		for len(waiting) < queueSize {
			c, ok, err := q.Pop()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := check(c); err != nil {
				return err
			}
			waiting = append(waiting, c)
		}
		if len(waiting) == 0 {
			return nil
		}
		result := d.flush(len(waiting))
		for _, c := range waiting {
			if err := d.answer(q, c, result); err != nil {
				return err
			}
		}
	}
}

// check judges the shape of a request; what it asks for is answered.
func check(c virtio.Chain) error {
	if c.Readable.Len() != requestSize || c.Writable.Len() < answerSize {
		return virtio.GuestErrorf("pmem request with %d readable and %d writable bytes", c.Readable.Len(), c.Writable.Len())
	}
	return nil
}

// flush brings what the guest has written before to the disk. There is nothing to
// bring where it cannot write.
func (d *Device) flush(n int) uint32 {
	d.metrics.Flushes.Add(uint64(n))
	if d.readOnly {
		return respOK
	}
	d.metrics.Syncs.Add(1)
	if err := d.sync(); err != nil {
		d.metrics.Errors.Add(1)
		return respError
	}
	return respOK
}

func (d *Device) answer(q *virtio.Queue, c virtio.Chain, result uint32) error {
	var b [requestSize]byte
	c.Readable.CopyOut(b[:])
	if binary.LittleEndian.Uint32(b[:]) != reqFlush {
		result = respError
	}
	binary.LittleEndian.PutUint32(b[:], result)
	return q.Push(c, uint32(c.Writable.CopyIn(b[:])))
}

// Reset has nothing to forget.
func (d *Device) Reset() {}

// Lost returns why a guest that touches the range may get an error, or nil when
// the file is what it was.
func (d *Device) Lost() error {
	st, err := d.f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", d.f.Name(), err)
	case uint64(st.Size()) < d.size:
		return fmt.Errorf("%s was shrunk from %d to %d bytes while the guest had it as memory", d.f.Name(), d.size, st.Size())
	case !d.readOnly:
		return fmt.Errorf("%s may have had no room for what the guest wrote, or a disk may have failed", d.f.Name())
	}
	return nil
}

// Close unmaps and closes the file. Preconditions: no memory slot is left.
func (d *Device) Close() error { return errors.Join(d.mapping.Close(), d.f.Close()) }

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }
