package blk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrResize is wrapped when a disk cannot be given a size.
var ErrResize = errors.New("disk cannot be resized")

// Resize gives the disk bytes bytes and tells the driver, at any time. An image
// file grows if it has to; 0 means the size that the file or block device has by
// now. A disk does not shrink: what the guest has there would be lost. Errors
// wrap ErrResize, and then nothing has changed for the guest.
func (d *Device) Resize(bytes uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	im := d.im
	have, now := im.sectors.Load()*sectorSize, uint64(0)
	end, err := im.f.Seek(0, io.SeekEnd) // nobody uses the file's place
	if err != nil {
		return fmt.Errorf("%w: %w", ErrResize, err)
	}
	now = uint64(end)
	if bytes == 0 {
		bytes = now / sectorSize * sectorSize
	}
	switch {
	case im.layers != nil:
		return fmt.Errorf("%w: a disk in qcow2 has the size that its image says", ErrResize)
	case im.written.Load() != nil:
		return fmt.Errorf("%w: its changes are being followed, for a snapshot or a migration; try again later", ErrResize)
	case bytes%sectorSize != 0 || bytes > math.MaxInt64:
		return fmt.Errorf("%w: %d bytes is no multiple of the %d-byte sector, or too large", ErrResize, bytes, sectorSize)
	case bytes < have:
		return fmt.Errorf("%w: the guest has %d bytes there, and a disk does not shrink to %d", ErrResize, have, bytes)
	case bytes > now && (im.blockDev || im.readOnly):
		return fmt.Errorf("%w: %s has %d bytes; let it grow to %d first", ErrResize, im.f.Name(), now, bytes)
	case bytes > now:
		if err := im.f.Truncate(int64(bytes)); err != nil {
			return fmt.Errorf("%w: %w", ErrResize, err)
		}
	}
	if bytes == have {
		return nil
	}
	im.sectors.Store(bytes / sectorSize)
	binary.LittleEndian.PutUint64(d.config[0:], bytes/sectorSize)
	if d.env != nil {
		d.env.ConfigChanged()
	}
	return nil
}
