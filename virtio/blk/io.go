package blk

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// read fills bufs, none of them empty, from off on, by way of v. It may narrow
// the list.
func (im *image) read(v *vector, bufs [][]byte, off int64) error {
	if im.layers != nil {
		return im.layers.read(bufs, off)
	}
	for len(bufs) > 0 {
		n, err := v.preadv(im.fdFor(bufs, off), bufs, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("preadv", err)
		case n == 0:
			return io.ErrUnexpectedEOF // the image was truncated under us
		}
		bufs, off = advance(bufs, n), off+int64(n)
	}
	return nil
}

// write stores bufs, none of them empty, from off on, by way of v. It may
// narrow the list.
func (im *image) write(v *vector, bufs [][]byte, off int64) error {
	if im.layers != nil {
		return im.layers.write(bufs, off)
	}
	for len(bufs) > 0 {
		n, err := v.pwritev(im.fdFor(bufs, off), bufs, off)
		im.mark(off, int64(max(n, 0)))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("pwritev", err)
		case n == 0:
			return io.ErrShortWrite
		}
		bufs, off = advance(bufs, n), off+int64(n)
	}
	return nil
}

// advance drops the first n bytes of bufs.
func advance(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}

// flush makes what was written durable.
func (im *image) flush() error {
	if im.layers != nil {
		return im.layers.flush()
	}
	for {
		if err := unix.Fdatasync(im.fd); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// discard gives the range back to the host; afterwards it reads as zeroes, or
// as before where the host cannot: a discard is a hint.
func (im *image) discard(s span) error {
	if im.layers != nil {
		return nil // what the image below has there would come up again
	}
	if err := im.fallocate(unix.FALLOC_FL_PUNCH_HOLE, s); !cannot(err) {
		return err
	}
	return nil
}

// zero makes the range read as zeroes; only with unmap may the host take the
// space back.
func (im *image) zero(v *vector, s span, unmap bool) error {
	if im.layers != nil {
		return im.layers.overlay.Zero(s.off, s.n)
	}
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
	if unmap {
		mode = unix.FALLOC_FL_PUNCH_HOLE
	}
	if err := im.fallocate(mode, s); !cannot(err) {
		return err
	}
	return im.writeZeroes(v, s)
}

// writeZeroes is for hosts that cannot do better.
func (im *image) writeZeroes(v *vector, s span) error {
	for s.n > 0 {
		b := zeroes[:min(s.n, int64(len(zeroes)))]
		if err := im.write(v, [][]byte{b}, s.off); err != nil {
			return err
		}
		s.off, s.n = s.off+int64(len(b)), s.n-int64(len(b))
	}
	return nil
}

// zeroes is only read; it lives in the program's zero pages.
var zeroes [64 << 10]byte

// cannot reports whether the host's file system lacks the operation, or a
// block device wants a coarser alignment for it.
func cannot(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)
}

func (im *image) fallocate(mode uint32, s span) error {
	if s.n == 0 {
		return nil
	}
	for {
		err := unix.Fallocate(im.fd, mode|unix.FALLOC_FL_KEEP_SIZE, s.off, s.n)
		im.mark(s.off, s.n) // whole or in part
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fallocate", err)
		}
	}
}
