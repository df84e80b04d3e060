package vhost

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// device is an open vhost device of any kind. Methods may be called from any
// goroutine; the kernel does one call at a time.
type device struct {
	f        *os.File
	features uint64
}

// open opens a device node and makes this process its owner: the kernel's
// thread will use this process's memory (VHOST_SET_OWNER).
func open(path string) (device, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return device{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	d := device{f: os.NewFile(uintptr(fd), path)}
	err = ioctl[struct{}](d.f, &reqSetOwner, nil)
	if err == nil {
		err = ioctl(d.f, &reqGetFeatures, &d.features)
	}
	if err != nil {
		d.f.Close()
		return device{}, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// Features returns the virtio feature bits that the kernel's side knows
// (VHOST_GET_FEATURES). Some of them are vhost's own.
func (d *device) Features() uint64 { return d.features }

// SetFeatures sets what was negotiated (VHOST_SET_FEATURES), a subset of
// Features. EOPNOTSUPP means that it is none.
func (d *device) SetFeatures(f uint64) error { return ioctl(d.f, &reqSetFeatures, &f) }

// SetMemTable says where guest memory is (VHOST_SET_MEM_TABLE), at most
// MaxRegions. It has to stay mapped until the device is stopped or closed.
func (d *device) SetMemTable(regions []MemoryRegion) error {
	var m memory
	if len(regions) > len(m.Regions) {
		return fmt.Errorf("%d regions of memory; vhost takes %d", len(regions), len(m.Regions))
	}
	m.NRegions = uint32(copy(m.Regions[:], regions))
	return ioctl(d.f, &reqSetMemTable, &m)
}

// Vring is one virtqueue as the kernel's side needs it. The addresses are of
// this process. The kernel takes references to the eventfds.
type Vring struct {
	Index             int
	Num               uint16 // entries
	Base              uint16 // next entry of the avail ring to take
	Desc, Avail, Used uint64
	Kick              int // eventfd: the driver has added buffers
	Call              int // eventfd: buffers have been used
	Err               int // eventfd: the ring is broken
}

// SetVring sets up one virtqueue: VHOST_SET_VRING_NUM, BASE, ADDR, CALL, ERR
// and KICK, in this order. EBUSY means that the device runs. The index of the
// used ring is taken from guest memory when the device starts.
func (d *device) SetVring(v Vring) error {
	i := uint32(v.Index)
	num, base := vringState{i, uint32(v.Num)}, vringState{i, uint32(v.Base)}
	addr := vringAddr{Index: i, DescUserAddr: v.Desc, AvailUserAddr: v.Avail, UsedUserAddr: v.Used}
	kick, call, fault := vringFile{i, int32(v.Kick)}, vringFile{i, int32(v.Call)}, vringFile{i, int32(v.Err)}
	for _, set := range []func() error{
		func() error { return ioctl(d.f, &reqSetVringNum, &num) },
		func() error { return ioctl(d.f, &reqSetVringBase, &base) },
		func() error { return ioctl(d.f, &reqSetVringAddr, &addr) },
		func() error { return ioctl(d.f, &reqSetVringCall, &call) },
		func() error { return ioctl(d.f, &reqSetVringErr, &fault) },
		func() error { return ioctl(d.f, &reqSetVringKick, &kick) },
	} {
		if err := set(); err != nil {
			return fmt.Errorf("queue %d: %w", v.Index, err)
		}
	}
	return nil
}

// VringBase returns the next entry of the avail ring that the kernel would
// take (VHOST_GET_VRING_BASE). It is final once the device is stopped.
func (d *device) VringBase(index int) (uint16, error) {
	s := vringState{Index: uint32(index)}
	if err := ioctl(d.f, &reqGetVringBase, &s); err != nil {
		return 0, fmt.Errorf("queue %d: %w", index, err)
	}
	return uint16(s.Num), nil
}

// Close gives the device back: the kernel's thread has ended when it returns.
// It is idempotent.
func (d *device) Close() error {
	if err := d.f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
