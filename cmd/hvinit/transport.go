package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// connectTimeout is how long the host may take to answer, in seconds.
const connectTimeout = 30

// dialer opens a connection to one of the host's ports. The connection is a
// non-blocking socket in an os.File: reads and writes wait in the poller, and
// package net stays out of it.
type dialer func(port uint32) (*os.File, error)

// newDialer returns the dialer for a transport: "vsock", or "unix:DIR", where
// a port is the socket DIR/PORT.
func newDialer(transport string) (dialer, error) {
	if transport == "vsock" {
		return func(port uint32) (*os.File, error) {
			return dial(unix.AF_VSOCK, &unix.SockaddrVM{CID: guestproto.HostCID, Port: port}, "vsock")
		}, nil
	}
	if dir, ok := strings.CutPrefix(transport, "unix:"); ok && dir != "" {
		return func(port uint32) (*os.File, error) {
			name := dir + "/" + strconv.FormatUint(uint64(port), 10)
			return dial(unix.AF_UNIX, &unix.SockaddrUnix{Name: name}, name)
		}, nil
	}
	return nil, fmt.Errorf("transport %q is not vsock or unix:DIR", transport)
}

// dial never blocks in connect(2): a signal ends a blocking one on a vsock, and
// SIGCHLD is what this process gets all the time. The socket is of no use after
// that, for a second connect reuses the port of the first, which the host takes
// for an error and resets.
func dial(family int, addr unix.Sockaddr, name string) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if family == unix.AF_VSOCK {
		// Two seconds unless told otherwise, which a host that is busy exceeds.
		_ = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &unix.Timeval{Sec: connectTimeout})
	}
	err = unix.Connect(fd, addr)
	f := os.NewFile(uintptr(fd), name)
	if errors.Is(err, unix.EINPROGRESS) {
		err = connected(f)
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "connect", Path: name, Err: err}
	}
	return f, nil
}

// connected waits until f's connect(2) has come to an end and returns how.
func connected(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = rc.Write(func(fd uintptr) bool {
		if _, err := unix.Getpeername(int(fd)); err == nil {
			return true
		}
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		result = err
		return err != nil // else: not yet
	})
	return errors.Join(err, result)
}

// closeWrite tells the peer that nothing more will come.
func closeWrite(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) { serr = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	return serr
}

// readNow reads what is there without waiting, whatever deadline is set. It
// returns 0 when there is nothing, or nothing more.
func readNow(f *os.File, p []byte) int {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = rc.Control(func(fd uintptr) {
		for {
			n, err = unix.Read(int(fd), p)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return 0
	}
	return n
}
