package vsock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/internal/vhost"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/vhostring"
)

// kernel is what the device needs of the kernel's side; *vhost.Vsock is it.
type kernel interface {
	vhostring.Kernel
	SetGuestCID(cid uint64) error
	SetRunning(on bool) error
}

// featureSeqpacket is VIRTIO_VSOCK_F_SEQPACKET (§5.10.3).
const featureSeqpacket virtio.Features = 1 << 1

// Vhost is a socket device whose rx and tx queues the kernel serves
// (/dev/vhost-vsock): the guest's ports are AF_VSOCK ports of the host, CID and
// all. The event queue stays here; it is used only after a restore.
//
// The kernel keeps the host's ends of connections when rings stop, which is
// what a pause wants. A driver that resets has forgotten its ends, so a reset
// gives the kernel's device back and takes a new one: the host's ends see
// ECONNRESET.
type Vhost struct {
	cid  uint64
	log  *slog.Logger
	open func() (kernel, error)
	info virtio.Info

	// All of what follows is touched by one goroutine at a time: the core's
	// calls do not overlap, and supervise ends before the next one.
	k      kernel // nil when a reset could not get a new one
	used   bool   // k has been set up for a driver
	broken error  // the rings were not had back: no driver may go on
	wires  *wires // nil until there is a driver
	event  bool   // the transport reset event is due
}

// wires are the eventfds on which the kernel's side reports. They outlive a
// pause, so that no signal is lost in it, and end with the driver.
type wires struct {
	calls [2]*eventfd.EventFD // of rx and tx
	fault *eventfd.EventFD    // of both
}

// NewVhost takes the guest's CID and makes a device. Errors wrap virtio.ErrArgs
// or ErrVhost; these say what to do.
func NewVhost(o Options) (*Vhost, error) {
	return newVhost(o, func() (kernel, error) { return vhost.OpenVsock() })
}

func newVhost(o Options, open func() (kernel, error)) (*Vhost, error) {
	if err := checkCID(o.CID); err != nil {
		return nil, err
	}
	d := &Vhost{cid: o.CID, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), open: open}
	if err := d.reopen(); err != nil {
		return nil, err
	}
	f := virtio.Features(d.k.Features())
	if !f.Has(virtio.FeatureVersion1) {
		return nil, errors.Join(fmt.Errorf("%w: this kernel's is older than virtio 1.0; %s", ErrVhost, useUser), d.Close())
	}
	d.info = virtio.Info{
		ID: virtio.IDVsock, QueueSizes: []uint16{queueSize, queueSize, eventQueueSize}, ConfigLen: configSize,
		Features: f & featureSeqpacket,
		Lacks:    (virtio.FeatureIndirectDesc | virtio.FeatureEventIdx) &^ f,
	}
	return d, nil
}

// reopen gets a new device of the kernel with the guest's CID.
func (d *Vhost) reopen() error {
	k, err := d.open()
	if err != nil {
		return explainVhost(err, d.cid)
	}
	if err := k.SetGuestCID(d.cid); err != nil {
		return errors.Join(explainVhost(err, d.cid), k.Close())
	}
	d.k, d.used, d.broken = k, false, nil
	return nil
}

// Info describes the three queues (§5.10.2) and what the kernel offers.
func (d *Vhost) Info() virtio.Info { return d.info }

// TakesQueue implements virtio.RingTaker.
func (d *Vhost) TakesQueue(i int) bool { return i == rxQueue || i == txQueue }

// ReadConfig implements virtio.ConfigSpace: the guest's CID (§5.10.4).
func (d *Vhost) ReadConfig(p []byte, off uint32) { readCID(d.cid, p, off) }

// WriteConfig ignores the write: the CID is ours.
func (d *Vhost) WriteConfig([]byte, uint32) {}

// HandleQueue serves the event queue, which matters only when a restored driver
// has to drop the connections it remembers (§5.10.6.7). Packets are not held
// back until it has done so: the host's kernel answers those of connections it
// does not know with a reset.
func (d *Vhost) HandleQueue(_ context.Context, q *virtio.Queue) error {
	if !d.event {
		return nil
	}
	c, ok, err := q.Pop()
	if !ok || err != nil {
		return err
	}
	d.event = false
	return pushEvent(q, c)
}

// Reset drops every connection the driver may know of.
func (d *Vhost) Reset() {
	d.event = false
	if err := d.unwire(); err != nil {
		d.log.Warn("eventfd not closed", "err", err)
	}
	if d.k != nil && !d.used {
		return
	}
	err := d.drop()
	if err == nil {
		err = d.reopen()
	}
	if err != nil {
		d.log.Warn("no connections until a driver has tried again", "err", err)
	}
}

// Close gives the CID back; the host's ends of connections see ECONNRESET.
func (d *Vhost) Close() error { return errors.Join(d.drop(), d.unwire()) }

// drop gives the kernel's device back.
func (d *Vhost) drop() error {
	if d.k == nil {
		return nil
	}
	k := d.k
	d.k = nil
	return k.Close()
}

func (d *Vhost) unwire() error {
	if d.wires == nil {
		return nil
	}
	w := d.wires
	d.wires = nil
	return w.close()
}

func newWires() (w *wires, err error) {
	w = &wires{}
	for _, f := range []struct {
		to   **eventfd.EventFD
		name string
	}{{&w.calls[rxQueue], "vhost rx call"}, {&w.calls[txQueue], "vhost tx call"}, {&w.fault, "vhost error"}} {
		if *f.to, err = eventfd.New(f.name); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	return w, nil
}

func (w *wires) close() (err error) {
	for _, e := range []*eventfd.EventFD{w.calls[rxQueue], w.calls[txQueue], w.fault} {
		if e != nil {
			err = errors.Join(err, e.Close())
		}
	}
	return err
}

// StateVersion returns 1.
func (d *Vhost) StateVersion() uint32 { return 1 }

// SaveState returns the CID: connections end at a restore.
func (d *Vhost) SaveState() (any, error) { return stateV1{d.cid}, nil }

// LoadState makes the driver drop the connections it remembers.
func (d *Vhost) LoadState(dec state.Decoder) error {
	if err := loadCID(dec, d.cid); err != nil {
		return err
	}
	d.event = true
	return nil
}
