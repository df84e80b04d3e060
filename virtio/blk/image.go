package blk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

// image is an open, locked image: a raw one, but for layers.
type image struct {
	f        *os.File      // owns fd
	fd       int           // through the page cache
	direct   *direct       // past it; nil with CacheWriteback
	sectors  atomic.Uint64 // grows only
	readOnly bool
	blockDev bool
	written  atomic.Pointer[memory.Bitmap] // the log of changes; nil without one
	layers   *layered                      // nil: the file is the disk
}

// openImage opens an image and takes a lock that conflicts with writers, and as
// a writer with everybody. The lock belongs to the open file: it goes with the
// last process that has that, however it ends.
func openImage(o Options) (*image, error) {
	im, err := openFile(o)
	if err != nil {
		return nil, err
	}
	if o.Cache != CacheNone {
		return im, nil
	}
	if im.direct, err = openDirect(im, o.Direct); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrImage, o.Path, err), im.giveUp(o))
	}
	return im, nil
}

// giveUp closes what openImage opened, when New does not succeed.
func (im *image) giveUp(o Options) (err error) {
	if im.direct != nil && o.Direct == nil {
		err = im.direct.f.Close()
	}
	if im.layers != nil {
		err = errors.Join(err, im.layers.close())
	}
	if o.Image == nil || im.layers != nil && !im.readOnly {
		err = errors.Join(err, im.f.Close())
	}
	return err
}

// openFile is openImage as far as the page cache.
func openFile(o Options) (*image, error) {
	if o.Format == FormatQcow2 {
		return openLayered(o)
	}
	if o.Image != nil {
		return adoptImage(o)
	}
	path, readOnly := o.Path, o.ReadOnly
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	// O_NONBLOCK: a FIFO must give an error, not a hang.
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case err == nil:
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO):
		return nil, notADisk(path)
	case !readOnly && (errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS)):
		return nil, fmt.Errorf("%w: %w; if the guest need not write, attach it with ro=on", ErrImage, err)
	default:
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	im := &image{f: f, fd: int(f.Fd()), readOnly: readOnly}
	if err := im.check(path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return im, nil
}

// adoptImage is openFile for a file that is open and locked already.
func adoptImage(o Options) (*image, error) {
	im := &image{f: o.Image, fd: int(o.Image.Fd()), readOnly: o.ReadOnly}
	if err := im.check(o.Path); err != nil { // locking it again changes nothing
		return nil, err
	}
	return im, nil
}

func notADisk(path string) error {
	return fmt.Errorf("%w: %s is neither a regular file nor a block device", ErrImage, path)
}

// check locks the image, then asks its size: nobody else changes it then.
func (im *image) check(path string) error {
	st, err := im.f.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	im.blockDev = st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	if !st.Mode().IsRegular() && !im.blockDev {
		return notADisk(path)
	}
	if err := im.lock(path); err != nil {
		return err
	}
	size, err := im.f.Seek(0, io.SeekEnd) // also right for block devices
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrImage, err)
	case size == 0:
		return fmt.Errorf("%w: %s is empty", ErrImage, path)
	case size%sectorSize != 0:
		return fmt.Errorf("%w: %s has %d bytes, no multiple of the %d-byte sector; extend it with: truncate -s %%%d %s",
			ErrImage, path, size, sectorSize, sectorSize, path)
	}
	im.sectors.Store(uint64(size) / sectorSize)
	return nil
}

func (im *image) lock(path string) error {
	how := int16(unix.F_WRLCK)
	if im.readOnly {
		how = unix.F_RDLCK
	}
	lock := unix.Flock_t{Type: how, Whence: io.SeekStart}
	err := unix.FcntlFlock(uintptr(im.fd), unix.F_OFD_SETLK, &lock)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %s is used by another VM; stop that one, or attach the image read-only to both", ErrLocked, path)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, os.NewSyscallError("fcntl", err))
	}
	return nil
}

func (im *image) close() error {
	if im.layers != nil {
		return errors.Join(im.layers.close(), im.f.Close())
	}
	if im.direct != nil {
		return errors.Join(im.direct.f.Close(), im.f.Close())
	}
	return im.f.Close()
}
