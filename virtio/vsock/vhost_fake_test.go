package vsock_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/vhost"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// host is a kernel with a vhost-vsock that serves nothing but keeps the rules.
type host struct {
	t  *testing.T
	mu sync.Mutex // guards what follows and every fakeVhost

	features uint64
	fail     map[string]error // by method; "open" too
	opened   int
	now      *fakeVhost // the one that is open; there is one guest
}

// Features that vhost-vsock of Linux 6.1 has.
const hostFeatures = 1<<32 | 1<<33 | 1<<29 | 1<<28 | 1<<27 | 1<<26 | 1<<24 | 1<<1

func newHost(t *testing.T) *host {
	h := &host{t: t, features: hostFeatures, fail: map[string]error{}}
	t.Cleanup(func() {
		if h.now != nil {
			t.Error("the kernel's device is still open")
		}
	})
	return h
}

func (h *host) open() (vsock.Kernel, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.fail["open"]; err != nil {
		return nil, err
	}
	if h.now != nil {
		h.t.Error("opened twice")
	}
	h.opened++
	h.now = &fakeVhost{h: h, rings: map[int]vhost.Vring{}}
	return h.now, nil
}

// device makes the device under test.
func (h *host) device() *vsock.Vhost {
	h.t.Helper()
	d, err := vsock.NewVhostWith(cid, h.open)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func (h *host) set(method string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail[method] = err
}

// state returns a copy of the open device.
func (h *host) state() fakeVhost {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now == nil {
		return fakeVhost{}
	}
	return *h.now
}

// signal signals one of the eventfds that the device was given.
func (h *host) signal(fd int) {
	h.t.Helper()
	if _, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
		h.t.Error(err)
	}
}

type fakeVhost struct {
	h        *host
	cid      uint64
	features uint64
	regions  []vhost.MemoryRegion
	rings    map[int]vhost.Vring
	running  bool
	taken    uint16 // entries that were served
	closed   bool
}

// enter locks and returns the error that method is to fail with.
func (f *fakeVhost) enter(method string) error {
	f.h.mu.Lock()
	if f.closed {
		f.h.t.Errorf("%s after Close", method)
	}
	if err := f.h.fail[method]; err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func (f *fakeVhost) Features() uint64 { return f.h.features }

func (f *fakeVhost) SetGuestCID(cid uint64) error {
	err := f.enter("SetGuestCID")
	defer f.h.mu.Unlock()
	f.cid = cid
	return err
}

func (f *fakeVhost) SetFeatures(features uint64) error {
	err := f.enter("SetFeatures")
	defer f.h.mu.Unlock()
	if features&^f.h.features != 0 {
		return unix.EOPNOTSUPP
	}
	f.features = features
	return err
}

func (f *fakeVhost) SetMemTable(r []vhost.MemoryRegion) error {
	err := f.enter("SetMemTable")
	defer f.h.mu.Unlock()
	f.regions = r
	return err
}

func (f *fakeVhost) SetVring(v vhost.Vring) error {
	err := f.enter("SetVring")
	defer f.h.mu.Unlock()
	if f.running {
		return unix.EBUSY
	}
	f.rings[v.Index] = v
	return err
}

func (f *fakeVhost) VringBase(i int) (uint16, error) {
	err := f.enter("VringBase")
	defer f.h.mu.Unlock()
	if f.running {
		f.h.t.Error("base of a ring that is in use")
	}
	return f.rings[i].Base + f.taken, err
}

func (f *fakeVhost) SetRunning(on bool) error {
	method := "Stop"
	if on {
		method = "Start"
	}
	err := f.enter(method)
	defer f.h.mu.Unlock()
	if on && (len(f.rings) != 2 || f.regions == nil || f.features == 0) {
		return unix.EFAULT
	}
	f.running = on && err == nil
	return err
}

func (f *fakeVhost) Close() error {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	if f.closed {
		f.h.t.Error("closed twice")
	}
	f.closed, f.h.now = true, nil
	return nil
}

var errFake = errors.New("the fake kernel does not want to")
