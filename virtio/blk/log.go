package blk

import (
	"os"

	"github.com/hvctl/hvctl/memory"
)

// Writable reports whether the guest can write to the disk.
func (d *Device) Writable() bool { return !d.im.readOnly }

// Image returns the open image, for copying it while the guest runs; it stays
// owned by the device.
func (d *Device) Image() *os.File { return d.im.f }

// Size returns the size of the disk in bytes.
func (d *Device) Size() uint64 { return d.im.sectors.Load() * sectorSize }

// StartWriteLog begins to record which parts of the disk change, in pages of
// memory.PageSize; the log is empty then.
func (d *Device) StartWriteLog() {
	d.im.written.Store(memory.NewBitmap((d.Size() + memory.PageSize - 1) / memory.PageSize))
}

// StopWriteLog ends it and forgets what was recorded.
func (d *Device) StopWriteLog() { d.im.written.Store(nil) }

// FetchWrites overwrites bitmap with the pages that changed since the last call,
// or since StartWriteLog, and forgets them; bit n of bitmap[w] is page 64*w+n.
// A page is there only after it has changed, so who reads the image after the
// call finds at least what the call told of. Without a log there are none.
func (d *Device) FetchWrites(bitmap []uint64) {
	clear(bitmap)
	if b := d.im.written.Load(); b != nil {
		b.Take(0, bitmap)
	}
}

// mark records a change. It comes after the change, and also when that failed
// halfway.
func (im *image) mark(off, n int64) {
	if b := im.written.Load(); b != nil && n > 0 {
		first := uint64(off) / memory.PageSize
		b.Set(first, uint64(off+n-1)/memory.PageSize-first+1)
	}
}
