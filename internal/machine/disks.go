package machine

import (
	"fmt"
	"os"

	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/hvctl/hvctl/virtio/net"
)

// Disk is a disk that the guest can write to.
type Disk struct {
	ID   string
	Size uint64   // bytes
	File *os.File // its image; owned by the machine
}

// Disks returns the disks that the guest can write to, in the order of
// Config.Devices.
func (m *Machine) Disks() (disks []Disk) {
	for _, d := range m.writable() {
		disks = append(disks, Disk{ID: d.id, Size: d.disk.Size(), File: d.disk.Image()})
	}
	return disks
}

// Images returns the image of every disk, in the order of Config.Devices.
func (m *Machine) Images() (disks []Disk) {
	for _, d := range m.devices {
		if b, ok := d.core.Device().(*blk.Device); ok {
			disks = append(disks, Disk{ID: d.id, Size: b.Size(), File: b.Image()})
		}
	}
	return disks
}

// FetchDirtyDisk is FetchDirty for a disk, counted as Disks does, in pages of
// memory.PageSize. StartDirtyLog and StopDirtyLog concern its log too.
func (m *Machine) FetchDirtyDisk(disk int, bitmap []uint64) error {
	disks := m.writable()
	if disk < 0 || disk >= len(disks) {
		return fmt.Errorf("%w: there is no disk %d", ErrDirtyLog, disk)
	}
	disks[disk].disk.FetchWrites(bitmap)
	return nil
}

// logDisks begins or ends the logs of all disks.
func (m *Machine) logDisks(on bool) {
	for _, d := range m.writable() {
		if on {
			d.disk.StartWriteLog()
		} else {
			d.disk.StopWriteLog()
		}
	}
}

// Disk returns the disk with the ID, writable or not; nil when there is none.
func (m *Machine) Disk(id string) *blk.Device {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.all() {
		if b, ok := d.core.Device().(*blk.Device); ok && d.id == id {
			return b
		}
	}
	return nil
}

// NIC returns the network device with the ID; nil when there is none.
func (m *Machine) NIC(id string) *net.Device {
	for _, d := range m.devices {
		if n, ok := d.core.Device().(*net.Device); ok && d.id == id {
			return n
		}
	}
	return nil
}

// writableDisk is a disk with the device's name.
type writableDisk struct {
	id   string
	disk *blk.Device
}

func (m *Machine) writable() (disks []writableDisk) {
	for _, d := range m.devices {
		if b, ok := d.core.Device().(*blk.Device); ok && b.Writable() {
			disks = append(disks, writableDisk{d.id, b})
		}
	}
	return disks
}
