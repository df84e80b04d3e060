package inside

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// input reads a file that is not ours alone, and so has to stay blocking, and
// that may never have anything to read: stop ends a Read that waits, which
// closing the file would not.
type input struct {
	f          *os.File
	stopR, end *os.File
}

func newInput(f *os.File) (*input, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &input{f, r, w}, nil
}

// Read implements io.Reader.
func (i *input) Read(p []byte) (int, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(i.f.Fd()), Events: unix.POLLIN}, {Fd: int32(i.stopR.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("poll", err)
		case fds[1].Revents != 0:
			return 0, io.EOF
		default:
			return i.f.Read(p)
		}
	}
}

// stop has every Read end.
func (i *input) stop() { i.end.Close() }
