package blk

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/overlay"
	"github.com/hvctl/hvctl/internal/qcow2"
)

// Format is how an image file holds a disk. It is what the image's owner says, and
// never guessed from the content, which a guest may have written: a raw disk that a
// guest has begun with a qcow2 header would then lead where the guest wants.
type Format string

// The formats.
const (
	FormatRaw   Format = "raw"
	FormatQcow2 Format = "qcow2" // only read; what the guest writes goes to an overlay
)

// layered is a disk that is not as it lies in its file: a qcow2 image, and over it the
// overlay, unless the disk is only read.
type layered struct {
	base    *os.File // the image
	below   *qcow2.Image
	overlay *overlay.Overlay // nil: the disk is read-only
}

// openLayered is openFile for such a disk. Both files are opened here and locked, the
// image against writers, and no other file is looked at afterwards.
func openLayered(o Options) (*image, error) {
	base := o.Image
	if base == nil {
		var err error
		if base, err = os.OpenFile(o.Path, os.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrImage, err)
		}
	}
	im, err := layer(o, base)
	if err != nil && o.Image == nil {
		err = errors.Join(err, base.Close())
	}
	return im, err
}

func layer(o Options, base *os.File) (*image, error) {
	im := &image{f: base, fd: int(base.Fd()), readOnly: true}
	st, err := base.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is no regular file, as images in qcow2 are", ErrImage, o.Path)
	}
	if err := im.lock(o.Path); err != nil {
		return nil, err
	}
	below, err := qcow2.Open(base, st.Size())
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrImage, o.Path, err)
	}
	im.layers = &layered{base: base, below: below}
	im.sectors.Store(below.Size() / sectorSize)
	if o.ReadOnly {
		return im, nil
	}
	return im, im.addOverlay(o, st)
}

// addOverlay puts the overlay's file on top, which is made if there is none.
func (im *image) addOverlay(o Options, st os.FileInfo) error {
	f, err := os.OpenFile(o.Overlay, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	if err := im.overlayOf(o, st, f); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

func (im *image) overlayOf(o Options, st os.FileInfo, f *os.File) error {
	top := &image{f: f, fd: int(f.Fd())}
	over, err := f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrImage, err)
	case !over.Mode().IsRegular() || os.SameFile(st, over):
		return fmt.Errorf("%w: overlay %s is no regular file, or the image itself", ErrImage, o.Overlay)
	}
	if err := top.lock(o.Overlay); err != nil {
		return err
	}
	id, err := identify(im.layers.base, st)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	im.layers.overlay, err = overlay.Open(im.layers.below, im.layers.below.Size(), id, f)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	im.f, im.fd, im.readOnly = f, top.fd, false
	return nil
}

// identify tells an image from others, and from itself once it has been changed: by
// its first bytes, its size and when it was written to.
func identify(f *os.File, st os.FileInfo) (id overlay.ID, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 64<<10)); err != nil {
		return id, err
	}
	fmt.Fprintf(h, "%d %d", st.Size(), st.ModTime().UnixNano())
	return overlay.ID(h.Sum(nil)), nil
}

func (l *layered) read(bufs [][]byte, off int64) error {
	var from io.ReaderAt = l.below
	if l.overlay != nil {
		from = l.overlay
	}
	for _, b := range bufs {
		if _, err := from.ReadAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

func (l *layered) write(bufs [][]byte, off int64) error {
	for _, b := range bufs {
		if _, err := l.overlay.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

func (l *layered) flush() error {
	if l.overlay == nil {
		return nil
	}
	return l.overlay.Sync()
}

// close makes what was written durable: the bitmap of what was not flushed is only
// here.
func (l *layered) close() error {
	if l.overlay == nil {
		return nil
	}
	return errors.Join(l.overlay.Sync(), l.base.Close())
}
