package instance

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxSunPath is what sockaddr_un holds, with the terminating zero.
const maxSunPath = 108

// Listen opens the control socket, closed to other users. Only the owner
// calls it. A socket file of an earlier owner is replaced.
func (i *Instance) Listen() (*net.UnixListener, error) {
	path, release, err := i.socketPath()
	if err != nil {
		return nil, err
	}
	defer release()
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it goes with the directory; path may be gone by then
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Dial connects to the owner. An error that is ECONNREFUSED or ENOENT means
// there is none.
func (i *Instance) Dial() (*net.UnixConn, error) {
	path, release, err := i.socketPath()
	if err != nil {
		return nil, err
	}
	defer release()
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

// socketPath is a path that fits sockaddr_un. Where the true one does not, it
// leads through an open descriptor of the directory, valid until release.
func (i *Instance) socketPath() (path string, release func(), err error) {
	path = filepath.Join(i.dir, socketFile)
	if len(path) < maxSunPath {
		return path, func() {}, nil
	}
	fd, err := unix.Open(i.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: i.dir, Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, socketFile), func() { _ = unix.Close(fd) }, nil
}
