package net

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	stdnet "net"
	"sync"
	"sync/atomic"

	"github.com/hvctl/hvctl/virtio"
)

const (
	// HeaderLen is the size of the header before every frame, struct
	// virtio_net_hdr with num_buffers (§5.1.6).
	HeaderLen = 12
	// numBuffers is the offset of num_buffers in it.
	numBuffers = 10

	etherLen   = 14 // header of an Ethernet frame
	minFrame   = HeaderLen + etherLen
	vlanTags   = 8 // two of them
	defaultMTU = 1500
	// maxFrame is the largest frame with offloads: a 64 KiB datagram
	// (§5.1.6.3.1: 65550 bytes and the header), and tags.
	maxFrame = HeaderLen + 65550 + vlanTags

	queueSize     = 256
	ctrlQueueSize = 64
	maxPairs      = 64

	statusLinkUp   = 1 // §5.1.4
	statusAnnounce = 2
)

// Options make a Device.
type Options struct {
	// Backends are the queue pairs, at least one. The device owns them.
	Backends []Backend
	// MAC is the guest's address; zero lets the driver choose.
	MAC [6]byte
	// MTU is that of the link; 0 says nothing to the driver.
	MTU uint16
	// LinkDown starts without a link.
	LinkDown bool
	// Kernel has the kernel serve the queues (vhost): one for each backend, which
	// are taps. The device owns them. Empty: this process does.
	Kernel []Kernel
}

// Device is the network device. Besides the core, any goroutine may call
// SetLink, Announce and Metrics.
type Device struct {
	o        Options
	features virtio.Features // offered
	pairs    []*pair
	metrics  Metrics
	filter   atomic.Pointer[filter]
	up       atomic.Bool // the link
	kernel   []*inKernel // with vhost, by pair
	lacks    virtio.Features
	here     atomic.Bool // this process serves what the kernel could
	plugging sync.Mutex  // held while up changes
	gone     atomic.Bool // the host's end of the link, for good

	mu       sync.Mutex // guards what follows
	env      *virtio.Env
	announce bool
	offloads Offload // what the driver takes now
	active   int     // queue pairs it uses
	chosen   bool    // offloads are the driver's choice, not its features'
	mq       bool
}

// pair is one receive and one transmit queue.
type pair struct {
	rx receiver
	tx sender
}

// New makes a network device. On error what it would own is closed.
func New(o Options) (*Device, error) {
	d := &Device{o: o, features: always}
	can := OffloadCSUM | segmented | OffloadECN
	for _, b := range o.Backends {
		can &= b.Offloads()
	}
	d.features |= offered(can)
	if o.MAC != (hwAddr{}) {
		d.features |= featMAC
	}
	if o.MTU != 0 {
		d.features |= featMTU
	}
	if len(o.Backends) > 1 {
		d.features |= featMQ
	}
	switch {
	case len(o.Backends) == 0 || len(o.Backends) > maxPairs:
		return nil, errors.Join(fmt.Errorf("%w: %d queue pairs, 1 to %d are possible", virtio.ErrArgs, len(o.Backends), maxPairs), d.Close())
	case o.MAC[0]&1 != 0:
		return nil, errors.Join(fmt.Errorf("%w: MAC address %s is a multicast one", virtio.ErrArgs, stdnet.HardwareAddr(o.MAC[:])), d.Close())
	case o.MTU != 0 && o.MTU < 68: // §5.1.4.1
		return nil, errors.Join(fmt.Errorf("%w: MTU %d is below 68", virtio.ErrArgs, o.MTU), d.Close())
	}
	if err := d.useKernel(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	for _, b := range o.Backends {
		p := &pair{}
		p.rx.init(d, b)
		p.tx.init(d, b)
		d.pairs = append(d.pairs, p)
	}
	d.up.Store(!o.LinkDown)
	d.forget()
	return d, nil
}

// useKernel looks at what the kernel is to serve, and offers what it can.
func (d *Device) useKernel() error {
	if n := len(d.o.Kernel); n != 0 && n != len(d.o.Backends) {
		return fmt.Errorf("%w: %d vhost devices for %d queue pairs", virtio.ErrArgs, n, len(d.o.Backends))
	}
	const core = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx
	for i, k := range d.o.Kernel {
		tap, err := tapOf(d.o.Backends[i])
		if err != nil {
			return fmt.Errorf("%w: %w", virtio.ErrArgs, err)
		}
		f := virtio.Features(k.Features())
		if !f.Has(virtio.FeatureVersion1) {
			return fmt.Errorf("%w: this kernel's vhost-net is older than virtio 1.0", virtio.ErrArgs)
		}
		d.features &^= featMrgRxbuf &^ f
		d.lacks |= core &^ f
		d.kernel = append(d.kernel, &inKernel{k: k, tap: tap})
	}
	return nil
}

// forget is the state after New and Reset.
func (d *Device) forget() {
	d.filter.Store(&filter{Promisc: true, MAC: d.o.MAC})
	d.mu.Lock()
	d.announce, d.offloads, d.chosen, d.active, d.mq, d.env = false, 0, false, 1, false, nil
	d.mu.Unlock()
}

// Info describes the device.
func (d *Device) Info() virtio.Info {
	i := virtio.Info{ID: virtio.IDNet, Features: d.features, Lacks: d.lacks, ConfigLen: configLen}
	for range d.pairs {
		i.QueueSizes = append(i.QueueSizes, queueSize, queueSize)
	}
	i.QueueSizes = append(i.QueueSizes, ctrlQueueSize)
	return i
}

// Activate tells the backends what the driver takes. After a restore they are
// new ones, so it is done every time.
func (d *Device) Activate(_ context.Context, env *virtio.Env) error {
	if err := d.negotiated(env); err != nil {
		return err
	}
	return d.handOver(env)
}

func (d *Device) negotiated(env *virtio.Env) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env = env
	d.mq = env.Features.Has(featMQ)
	if !d.chosen {
		d.offloads = offloads(env.Features)
	}
	for _, p := range d.pairs {
		p.rx.negotiated(env.Features)
	}
	return d.applyLocked(d.active)
}

// applyLocked brings the backends to d.offloads and to n queue pairs in use.
func (d *Device) applyLocked(n int) error {
	for i, b := range d.o.Backends {
		if len(d.o.Backends) > 1 && i > 0 { // the first is always in use
			if err := d.pairs[i].enable(b, i < n); err != nil {
				return err
			}
		}
		if i < n {
			if err := b.SetOffloads(d.offloads); err != nil {
				return err
			}
			if i >= d.active {
				d.env.Kick(2 * i) // its receiver may have buffers already
			}
		}
	}
	d.active = n
	return nil
}

func (p *pair) enable(b Backend, on bool) error {
	if p.rx.enabled.Load() == on {
		return nil
	}
	if !on {
		p.rx.enabled.Store(false) // first, or a receiver takes the end for a loss
	}
	if err := b.SetEnabled(on); err != nil {
		return err
	}
	p.rx.enabled.Store(on)
	return nil
}

// HandleQueue serves one queue.
func (d *Device) HandleQueue(ctx context.Context, q *virtio.Queue) error {
	i := q.Index()
	d.mu.Lock()
	ctrl := 2 // §5.1.2: N is 1 unless MQ was negotiated
	if d.mq {
		ctrl = 2 * len(d.pairs)
	}
	d.mu.Unlock()
	switch {
	case i == ctrl:
		return d.control(q)
	case i > ctrl:
		return nil // does not exist for this driver
	case i%2 == 0:
		return d.pairs[i/2].rx.serve(ctx, q)
	default:
		return d.pairs[i/2].tx.serve(ctx, q)
	}
}

// Reset forgets what the driver asked for.
func (d *Device) Reset() {
	d.forget()
	for _, p := range d.pairs {
		p.rx.reset()
	}
	for _, p := range d.kernel {
		_ = p.unwire() // closing an eventfd does not fail
	}
}

// Close closes what the device owns.
func (d *Device) Close() (err error) {
	for _, k := range d.o.Kernel {
		err = errors.Join(err, k.Close())
	}
	for _, p := range d.kernel {
		err = errors.Join(err, p.unwire())
	}
	for _, b := range d.o.Backends {
		err = errors.Join(err, b.Close())
	}
	return err
}

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }

// Announce asks the driver to tell the network where it is now (§5.1.6.5.3),
// after a migration. Drivers that did not negotiate it do not.
func (d *Device) Announce() {
	d.mu.Lock()
	ok := d.env != nil && d.env.Features.Has(featGuestAnnounce)
	d.announce = d.announce || ok
	d.mu.Unlock()
	if ok {
		d.configChanged()
	}
}

func (d *Device) configChanged() {
	d.mu.Lock()
	env := d.env
	d.mu.Unlock()
	if env != nil {
		env.ConfigChanged()
	}
}

// configLen is the length of struct virtio_net_config up to duplex (§5.1.4).
const configLen = 17

// ReadConfig fills p with the bytes at off.
func (d *Device) ReadConfig(p []byte, off uint32) {
	const speedMbps, fullDuplex = 10000, 1 // a tap has neither; drivers like a number
	var c [configLen]byte
	le := binary.LittleEndian
	mac := d.filter.Load().MAC
	copy(c[0:], mac[:])
	var status uint16
	if d.up.Load() {
		status |= statusLinkUp
	}
	d.mu.Lock()
	if d.announce {
		status |= statusAnnounce
	}
	d.mu.Unlock()
	le.PutUint16(c[6:], status)
	le.PutUint16(c[8:], uint16(len(d.pairs)))
	le.PutUint16(c[10:], d.o.MTU)
	le.PutUint32(c[12:], speedMbps)
	c[16] = fullDuplex
	copy(p, c[off:])
}

// WriteConfig ignores p: the driver changes the address by the control queue.
func (d *Device) WriteConfig([]byte, uint32) {}
