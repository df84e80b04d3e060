package net

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hvctl/hvctl/internal/polling"
	"golang.org/x/sys/unix"
)

// Offload is a set of what a Backend may leave undone in the frames it hands
// out, because the driver will do it.
type Offload uint

// Offloads: partial checksums, then segments larger than the MTU of TCP over
// IPv4 and IPv6 (also with ECN) and of UDP.
const (
	OffloadCSUM Offload = 1 << iota
	OffloadTSO4
	OffloadTSO6
	OffloadECN
	OffloadUFO
	OffloadUSO4
	OffloadUSO6
)

// Frames moves one frame a call. Every frame begins with a header of HeaderLen
// bytes (§5.1.6). Neither method blocks: unix.EAGAIN means not now. They do
// not keep the slices.
type Frames interface {
	// Readv fills bufs with the next frame; what does not fit is lost. 0
	// bytes mean that no more will come.
	Readv(bufs [][]byte) (int, error)
	// Writev sends bufs as one frame.
	Writev(bufs [][]byte) (int, error)
}

// Backend is the host's side of one pair of queues. Receive and Transmit are
// each called by one goroutine at a time, with a ctx that ends before another
// one is used; the other methods while neither runs, but for SetOffloads.
type Backend interface {
	// Receive calls f, and calls it again each time a frame may have come,
	// until it returns true (then Receive returns nil) or ctx ends (then the
	// result is not nil). f reads until EAGAIN before it returns false.
	Receive(ctx context.Context, f func(Frames) (done bool)) error
	// Transmit is the same for room to send.
	Transmit(ctx context.Context, f func(Frames) (done bool)) error
	// Offloads returns what SetOffloads takes.
	Offloads() Offload
	// SetOffloads says what the driver takes from now on.
	SetOffloads(o Offload) error
	// SetEnabled says whether the driver uses the queue pair; frames for it go
	// to the others when it does not. Never called for a device of one pair.
	SetEnabled(on bool) error
	io.Closer
}

// NewSocket is NewFile for a socket whose peer takes frames without their
// checksums, but no segments.
func NewSocket(f *os.File) (Backend, error) {
	b, err := NewFile(f)
	if err == nil {
		b.(*file).can &= OffloadCSUM
	}
	return b, err
}

// file is a Backend on a descriptor that keeps frames apart: a tap, or a
// socket of type SOCK_DGRAM or SOCK_SEQPACKET.
type file struct {
	f      *os.File
	rc     syscall.RawConn
	tap    bool
	can    Offload
	rx, tx direction

	mu      sync.Mutex // guards what follows
	watched *watched   // nil: nobody here waits
}

// watched is a file as the poller knows it.
type watched struct {
	f  *os.File
	rc syscall.RawConn
}

// direction is one way through a file. The function values are made once: a
// closure for each wait would be garbage for each wait.
type direction struct {
	frames fdFrames
	f      func(Frames) bool
	poll   func(fd uintptr) bool

	ctx   context.Context // the deadline is set when it ends
	fired chan struct{}   // closed when that has been done
}

// NewFile makes a Backend of f, which it owns from then on, also when it
// fails: a tap with a 12-byte header (TUNSETVNETHDRSZ), or a socket whose peer
// takes any offload. One that Go's poller does not watch (package polling) wakes
// nobody in this process while the kernel serves it (vhost).
func NewFile(f *os.File) (Backend, error) {
	b := &file{f: f}
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b.rc = rc
	b.rx.init()
	b.tx.init()
	if err := b.probe(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if f.SetDeadline(time.Time{}) == nil {
		b.watched = &watched{f, rc}
	}
	return b, nil
}

// wait returns f as the poller knows it: without that a wait could not be ended. Of
// a file that the poller was not given (package polling) that is a duplicate.
func (b *file) wait() (*watched, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.watched != nil {
		return b.watched, nil
	}
	f, err := polling.On(b.f)
	if err != nil {
		return nil, err
	}
	rc, err := f.SyscallConn()
	if err = errors.Join(err, f.SetDeadline(time.Time{})); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b.watched = &watched{f, rc}
	return b.watched, nil
}

// unwatch has frames wake nobody here, until the next Receive or Transmit; the
// contexts of those before have ended. A file that the poller was given it keeps.
func (b *file) unwatch() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.watched
	if w == nil || w.f == b.f {
		return nil
	}
	b.rx.disarm()
	b.tx.disarm()
	b.watched = nil
	return w.f.Close()
}

func (d *direction) init() {
	d.poll = func(fd uintptr) bool {
		d.frames.fd = fd
		return d.f(&d.frames)
	}
}

// disarm forgets the ctx before, which has ended.
func (d *direction) disarm() {
	if d.fired != nil {
		<-d.fired
	}
	d.ctx, d.fired = nil, nil
}

// arm makes the end of ctx wake whoever waits in this direction. It costs
// something only for a new ctx.
func (d *direction) arm(ctx context.Context, setDeadline func(time.Time) error) error {
	if d.ctx == ctx {
		return nil
	}
	if d.fired != nil {
		<-d.fired // the ctx before this one has ended
	}
	if err := setDeadline(time.Time{}); err != nil {
		return err
	}
	fired := make(chan struct{})
	d.ctx, d.fired = ctx, fired
	context.AfterFunc(ctx, func() {
		_ = setDeadline(time.Unix(1, 0)) // fails only when closed, which wakes too
		close(fired)
	})
	return nil
}

func (b *file) Receive(ctx context.Context, f func(Frames) bool) error {
	w, err := b.wait()
	if err == nil {
		err = b.rx.arm(ctx, w.f.SetReadDeadline)
	}
	if err != nil {
		return err
	}
	b.rx.f = f
	return w.rc.Read(b.rx.poll)
}

func (b *file) Transmit(ctx context.Context, f func(Frames) bool) error {
	w, err := b.wait()
	if err == nil {
		err = b.tx.arm(ctx, w.f.SetWriteDeadline)
	}
	if err != nil {
		return err
	}
	b.tx.f = f
	return w.rc.Write(b.tx.poll)
}

func (b *file) Offloads() Offload { return b.can }

func (b *file) Close() error {
	err := b.unwatch()
	if cerr := b.f.Close(); !errors.Is(cerr, os.ErrClosed) { // its lender may have closed it
		err = errors.Join(err, cerr)
	}
	return err
}

// control calls f with the descriptor.
func (b *file) control(f func(fd int) error) error {
	var err error
	return errors.Join(b.rc.Control(func(fd uintptr) { err = f(int(fd)) }), err)
}

// tunFlags pairs offloads with the kernel's flags (TUN_F_*).
var tunFlags = []struct {
	off Offload
	tun int
}{
	{OffloadCSUM, unix.TUN_F_CSUM},
	{OffloadTSO4, unix.TUN_F_TSO4},
	{OffloadTSO6, unix.TUN_F_TSO6},
	{OffloadECN, unix.TUN_F_TSO_ECN},
	{OffloadUFO, unix.TUN_F_UFO},
	{OffloadUSO4, unix.TUN_F_USO4},
	{OffloadUSO6, unix.TUN_F_USO6},
}

// probe finds out whether this is a tap and what it can do.
func (b *file) probe() error {
	all := OffloadCSUM | segmented | OffloadECN
	return b.control(func(fd int) error {
		size, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
		if err != nil { // no tap
			b.can = all
			return nil
		}
		if size != HeaderLen {
			return errors.New("tap has a frame header of a wrong size; TUNSETVNETHDRSZ must be 12")
		}
		b.tap = true
		// USO came with Linux 6.2, UFO has come and gone.
		for _, o := range []Offload{all, all &^ (OffloadUSO4 | OffloadUSO6), all &^ (OffloadUSO4 | OffloadUSO6 | OffloadUFO), OffloadCSUM, 0} {
			if setTunOffloads(fd, o) == nil {
				b.can = o
				break
			}
		}
		return setTunOffloads(fd, 0)
	})
}

func setTunOffloads(fd int, o Offload) error {
	flags := 0
	for _, t := range tunFlags {
		if o&t.off != 0 {
			flags |= t.tun
		}
	}
	return os.NewSyscallError("TUNSETOFFLOAD", unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags))
}

func (b *file) SetOffloads(o Offload) error {
	if !b.tap {
		return nil
	}
	return b.control(func(fd int) error { return setTunOffloads(fd, o&b.can) })
}

func (b *file) SetEnabled(on bool) error {
	if !b.tap {
		return nil
	}
	return b.control(func(fd int) error {
		ifr, err := unix.NewIfreq("")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_DETACH_QUEUE)
		if on {
			ifr.SetUint16(unix.IFF_ATTACH_QUEUE)
		}
		return os.NewSyscallError("TUNSETQUEUE", unix.IoctlIfreq(fd, unix.TUNSETQUEUE, ifr))
	})
}
