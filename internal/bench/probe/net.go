package probe

import (
	"math/bits"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func netProbes() []Probe {
	return []Probe{
		{Name: "tcp-stream", Chapter: "net", Follows: "netperf TCP_STREAM", MiB: 1, open: openStream},
		{Name: "tcp-rr", Chapter: "net", Follows: "netperf TCP_RR", open: func(string) (*bench, error) { return openEcho(1) }},
		{Name: "tcp-crr", Chapter: "net", Follows: "netperf TCP_CRR", open: openConnect},
	}
}

// listen is a socket on a free loopback port.
func listen() (fd int, addr *unix.RawSockaddrInet4, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, nil, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return -1, nil, os.NewSyscallError("bind", err)
	}
	if err = unix.Listen(fd, 16); err != nil {
		return -1, nil, os.NewSyscallError("listen", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return -1, nil, os.NewSyscallError("getsockname", err)
	}
	v4, _ := sa.(*unix.SockaddrInet4)
	addr = &unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: v4.Addr, Port: bits.ReverseBytes16(uint16(v4.Port))} // in the network's order
	return fd, addr, nil
}

// connect opens a connection, with raw calls.
func connect(addr *unix.RawSockaddrInet4) (int, error) {
	fd, e := rawSocket()
	if e != 0 {
		return -1, os.NewSyscallError("socket", e)
	}
	for e = unix.EINTR; e == unix.EINTR; {
		e = rawConnect(fd, addr)
	}
	if e != 0 {
		closeRaw(fd)
		return -1, os.NewSyscallError("connect", e)
	}
	return fd, nil
}

// pair is a TCP connection, both its ends.
func pair() (ours, theirs int, err error) {
	l, addr, err := listen()
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(l)
	if ours, err = connect(addr); err != nil {
		return -1, -1, err
	}
	if theirs, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC); err != nil {
		_ = unix.Close(ours)
		return -1, -1, os.NewSyscallError("accept", err)
	}
	for _, fd := range []int{ours, theirs} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return -1, -1, os.NewSyscallError("TCP_NODELAY", err)
		}
	}
	return ours, theirs, nil
}

// openEcho sends messages of size bytes to a child and back.
func openEcho(size int) (*bench, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	return echo(size, theirs, theirs, ours, ours)
}

// openStream sends 1 MiB at a time to a child, which says when it has all.
func openStream(string) (*bench, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	buf, sink := make([]byte, 64<<10), make([]byte, 64<<10)
	pid, e := rawFork()
	if e != 0 {
		return nil, os.NewSyscallError("clone", e)
	}
	if pid == 0 {
		closeRaw(ours)
		swallow(theirs, sink)
		rawExit(0)
	}
	_ = unix.Close(theirs)
	ack := make([]byte, 1)
	return timed(func(n int) error {
		for range n {
			for sent := 0; sent < 1<<20; {
				k, e := rawWrite(ours, buf)
				if e != 0 {
					return os.NewSyscallError("write", e)
				}
				sent += k
			}
			if _, e := rawRead(ours, ack); e != 0 {
				return os.NewSyscallError("read", e)
			}
		}
		return nil
	}, func() {
		_ = unix.Close(ours)
		_ = reap(pid)
	}), nil
}

// swallow reads, and writes a byte for every MiB.
//
//go:nosplit
//go:norace
func swallow(fd int, b []byte) {
	for have := 0; ; {
		n, e := rawRead(fd, b)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 || n <= 0 {
			return
		}
		if have += n; have >= 1<<20 {
			have -= 1 << 20
			if _, e := rawWrite(fd, b[:1]); e != 0 {
				return
			}
		}
	}
}

// openConnect connects, sends a byte, reads one, and closes.
func openConnect(string) (*bench, error) {
	l, addr, err := listen()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 1)
	pid, e := rawFork()
	if e != 0 {
		return nil, os.NewSyscallError("clone", e)
	}
	if pid == 0 {
		acceptLoop(l, buf)
		rawExit(0)
	}
	return timed(func(n int) error {
		for range n {
			fd, err := connect(addr)
			if err != nil {
				return err
			}
			err = exchange(fd, fd, buf)
			rawNoLinger(fd) // no TIME_WAIT: ports are few
			closeRaw(fd)
			if err != nil {
				return err
			}
		}
		return nil
	}, func() {
		_ = unix.Shutdown(l, unix.SHUT_RDWR) // the child's accept ends
		_ = unix.Close(l)
		_ = reap(pid)
	}), nil
}

// acceptLoop echoes a byte on each connection until the socket is shut down.
//
//go:nosplit
//go:norace
func acceptLoop(l int, b []byte) {
	for {
		fd, _, e := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(l), 0, 0, 0, 0, 0)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 {
			return
		}
		rawEcho(int(fd), int(fd), b)
		closeRaw(int(fd))
	}
}
