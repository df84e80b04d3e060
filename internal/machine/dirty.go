package machine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// ErrDirtyLog is wrapped when it cannot be known which pages change.
var ErrDirtyLog = errors.New("no log of changed pages")

// StartDirtyLog begins to record which pages of RAM change: KVM's log for the
// guest's writes, and the bitmap of package memory for ours. It is refused with
// ErrDirtyLog while the host's kernel writes to the guest's memory by itself
// (vhost).
func (m *Machine) StartDirtyLog() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.ended.Load() {
		return ErrEnded
	}
	if err := m.serveHere(true); err != nil {
		return err
	}
	for i, r := range m.mem.Regions() {
		if r.Offset/memory.PageSize%64 != 0 {
			return fmt.Errorf("%w: region %v begins inside a word of the bitmap", ErrDirtyLog, r.GPA)
		}
		if err := m.vm.SetMemorySlot(uint32(i), kvm.MemLogDirtyPages, uint64(r.GPA), r.Slot()); err != nil {
			return errors.Join(err, m.logOff(), m.serveHere(false))
		}
	}
	m.mem.Dirty().Clear()
	m.logDisks(true)
	m.logging = true
	return nil
}

func takesAny(t virtio.RingTaker, c *virtio.Core) bool {
	for i := range c.NumQueues() {
		if t.TakesQueue(i) {
			return true
		}
	}
	return false
}

// StopDirtyLog ends the recording; it does nothing when there is none.
func (m *Machine) StopDirtyLog() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.logging || m.closed {
		return nil
	}
	m.logging = false
	m.logDisks(false)
	return errors.Join(m.logOff(), m.serveHere(false))
}

// returner is a device whose queues the kernel serves or this process: the kernel
// keeps no log of what it writes.
type returner interface {
	KernelServes() bool
	ServeHere(here bool)
}

// serveHere has this process serve all devices while there is a log, and the kernel
// again afterwards. A device that only the kernel can serve is refused. m.mu is
// held.
func (m *Machine) serveHere(here bool) error {
	for _, d := range m.devices {
		t, ok := d.core.Device().(virtio.RingTaker)
		if !ok {
			continue
		}
		r, can := t.(returner)
		switch {
		case !can && here && takesAny(t, d.core):
			return fmt.Errorf("%w: device %s is served by the host's kernel (vhost), whose writes are not logged", ErrDirtyLog, d.id)
		case !can || !r.KernelServes():
			continue
		case m.paused.Load():
			r.ServeHere(here)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), returnTimeout)
		err := d.Stop(ctx)
		cancel()
		if err == nil {
			r.ServeHere(here)
		}
		if err := errors.Join(err, d.Start()); err != nil {
			return fmt.Errorf("device %s: %w", d.id, err)
		}
	}
	return nil
}

// returnTimeout is how long the kernel may take to give queues back.
const returnTimeout = 5 * time.Second

func (m *Machine) logOff() error {
	var errs []error
	for i, r := range m.mem.Regions() {
		errs = append(errs, m.vm.SetMemorySlot(uint32(i), 0, uint64(r.GPA), r.Slot()))
	}
	return errors.Join(errs...)
}

// FetchDirty overwrites bitmap with the pages of a region that have changed
// since the last call, or since StartDirtyLog, and forgets them. Bit n of
// bitmap[w] is page 64*w+n. Both logs are taken before any page is read, so a
// page that changes meanwhile is in the next answer.
func (m *Machine) FetchDirty(region int, bitmap []uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.mem.Regions()
	switch {
	case m.closed:
		return ErrEnded
	case !m.logging:
		return fmt.Errorf("%w: it was not started", ErrDirtyLog)
	case region < 0 || region >= len(all):
		return fmt.Errorf("%w: there is no region %d", ErrDirtyLog, region)
	}
	r := all[region]
	if err := m.vm.DirtyLog(uint32(region), r.Size, bitmap); err != nil {
		return err
	}
	m.mem.Dirty().Take(r.Offset/memory.PageSize, bitmap[:kvm.DirtyBitmapLen(r.Size)])
	return nil
}
