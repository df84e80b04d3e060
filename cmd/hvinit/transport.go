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

func dial(family int, addr unix.Sockaddr, name string) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Connecting blocks for one answer of the host's; only then does the
	// socket go to the poller.
	for {
		err = unix.Connect(fd, addr)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil || err == unix.EISCONN {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
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
