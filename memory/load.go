package memory

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// loadPiece bounds one copy, so that a system call never runs for long and a
// signal can end the program between two.
const loadPiece = 4 << 20

// LoadFrom copies n bytes of r at off to a; they must lie in one region. It is
// for what the guest starts from: call it before the guest runs and from one
// goroutine at a time, for it moves the memfd's file position. A file's pages
// go from one cache to the other inside the kernel: that spares a fault for
// each page, and clearing what is overwritten at once. Errors wrap
// ErrOutOfRange, then nothing was written, or io.ErrUnexpectedEOF, or are r's.
func (g *Guest) LoadFrom(r io.ReaderAt, off int64, a GPA, n uint64) error {
	reg, at, err := g.find(a, n)
	if err != nil {
		return err
	}
	g.dirty.setBytes(reg.Offset+at, n)
	if f, ok := r.(*os.File); ok && g.fd >= 0 && !g.huge {
		done, err := g.sendFrom(f, off, reg.Offset+at, n)
		off, at, n = off+int64(done), at+done, n-done
		if err != nil || n == 0 {
			return err
		}
	}
	for dst := reg.Bytes[at : at+n]; len(dst) > 0; {
		piece := dst[:min(len(dst), loadPiece)]
		if got, err := r.ReadAt(piece, off); got < len(piece) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		dst, off = dst[len(piece):], off+int64(len(piece))
	}
	return nil
}

// sendFrom copies n bytes of f at off into the memfd at an offset. Where files
// cannot be sent it copies nothing, and that is no error.
func (g *Guest) sendFrom(f *os.File, off int64, at, n uint64) (done uint64, err error) {
	if _, err := unix.Seek(g.fd, int64(at), unix.SEEK_SET); err != nil {
		return 0, os.NewSyscallError("lseek", err)
	}
	for done < n {
		k, err := unix.Sendfile(g.fd, int(f.Fd()), &off, int(min(n-done, loadPiece)))
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case done == 0 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS)):
			return 0, nil
		case err != nil:
			return done, os.NewSyscallError("sendfile", err)
		case k == 0:
			return done, io.ErrUnexpectedEOF
		}
		done += uint64(max(k, 0))
	}
	return done, nil
}
