package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/upper"
)

// packLayer serves Pack. What is to be the same at the end as at the beginning has to
// stand still meanwhile (Suspend).
func (m *manager) packLayer(l guestproto.Layer) (guestproto.Started, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ct, err := m.living("")
	if err != nil {
		return guestproto.Started{}, err
	}
	if ct.root.upper == "" {
		return guestproto.Started{}, stateErr("the root is a shared directory, and has no writable layer")
	}
	dir := ct.root.writable()
	return m.play(l.ID, ct, l.Streams, func(ends [3]*os.File) error {
		return read(upper.Pack(ends[1], dir, upper.Trusted))
	})
}

// fillLayer serves Fill. The layer is nobody's yet: Run mounts it with the image.
func (m *manager) fillLayer(l guestproto.Layer) (guestproto.Started, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ran || m.filled != nil {
		return guestproto.Started{}, stateErr("the writable layer has its content already")
	}
	<-m.loaded
	r := newRoot(m.cfg.base)
	if err := r.makeUpper(l.Upper); err != nil {
		return guestproto.Started{}, err
	}
	m.filled = r
	return m.play(l.ID, new(container), l.Streams, func(ends [3]*os.File) error {
		return upper.Unpack(ends[0], r.writable(), upper.Trusted)
	})
}

// suspendWait bounds how long the workload's processes may take to stand still: one
// that waits for a device does so when it has what it waits for.
const suspendWait = 10 * time.Second

// suspend serves Suspend and Continue.
func (m *manager) suspend(on bool) error {
	m.mu.Lock()
	c := m.cgroup
	_, err := m.living("")
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := c.freeze(on); err != nil {
		return err
	}
	if on {
		unix.Sync()
	}
	return nil
}

// freeze stops every process of the group, and waits until they stand still, or lets
// them go on.
func (c *cgroup) freeze(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	if c == nil {
		return stateErr("this guest kernel has no cgroups: its processes cannot be stopped together")
	}
	err := os.WriteFile(c.dir+"/cgroup.freeze", []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return stateErr("this guest kernel cannot stop the processes of a cgroup (Linux 5.2)")
	}
	if err != nil || !on {
		return err
	}
	for waited := time.Duration(0); c.field("cgroup.events", "frozen") != 1; waited += cgroupLook {
		if waited >= suspendWait {
			_ = os.WriteFile(c.dir+"/cgroup.freeze", []byte("0"), 0)
			return stateErr("not all processes stood still within %v", suspendWait)
		}
		time.Sleep(cgroupLook) //nolint:forbidigo // between two looks, until a deadline
	}
	return nil
}
