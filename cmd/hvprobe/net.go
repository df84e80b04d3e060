package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/bench/device/probe"
)

// lossTimeout is when a datagram that has not come is lost.
const lossTimeout = 5 * time.Second

// network is the first interface, with the host's server behind it.
type network struct {
	to  *unix.SockaddrInet4
	buf []byte
}

func openNetwork() (*network, error) {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	addr, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", probe.NetGuest, probe.NetBits))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		return nil, fmt.Errorf("eth0: %w", err)
	}
	return &network{to: &unix.SockaddrInet4{Port: probe.NetPort, Addr: probe.NetHost.As4()}, buf: make([]byte, probe.NetChunk)}, nil
}

// connect opens a connection and says what it is for.
func (n *network) connect(verb byte) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, n.to); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err == nil {
		_, err = unix.Write(fd, []byte{verb})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// run does the operations of t and returns how long they took.
func (n *network) run(t probe.NetTest) (time.Duration, error) {
	if t.UDP {
		return n.bursts(t)
	}
	fd := -1
	defer func() { unix.Close(fd) }()
	var err error
	if !t.Each {
		if fd, err = n.connect(t.Verb); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	for range t.Ops {
		if t.Each {
			if fd, err = n.connect(t.Verb); err != nil {
				return 0, err
			}
		}
		out, in := 1, 1
		switch t.Verb {
		case probe.NetTake:
			out = t.Bytes
		case probe.NetGive:
			in = t.Bytes
		}
		if err := n.all(unix.Write, fd, out); err != nil {
			return 0, os.NewSyscallError("write", err)
		}
		if err := n.all(unix.Read, fd, in); err != nil {
			return 0, os.NewSyscallError("read", err)
		}
		if t.Each {
			unix.Close(fd)
			fd = -1
		}
	}
	return time.Since(start), nil
}

// all moves count bytes.
func (n *network) all(call func(int, []byte) (int, error), fd, count int) error {
	for count > 0 {
		m, err := call(fd, n.buf[:min(count, len(n.buf))])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if m == 0 {
			return errors.New("the host ended the connection")
		}
		count -= m
	}
	return nil
}

// bursts does the same with datagrams.
func (n *network) bursts(t probe.NetTest) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(lossTimeout.Nanoseconds())
	if err := errors.Join(unix.Connect(fd, n.to), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)); err != nil {
		return 0, err
	}
	exchange := func(verb byte, out, in int) error {
		n.buf[0] = verb
		for range out {
			if _, err := unix.Write(fd, n.buf[:probe.NetPayload]); err != nil {
				return os.NewSyscallError("write", err)
			}
		}
		for i := range in {
			if _, err := unix.Read(fd, n.buf); err != nil {
				return fmt.Errorf("datagram %d of %d did not come: %w", i+1, in, err)
			}
		}
		return nil
	}
	if err := exchange(probe.NetHello, 1, 1); err != nil {
		return 0, err
	}
	start := time.Now()
	for range t.Ops {
		out, in := 1, 1
		if t.Verb == probe.NetTake {
			out = probe.NetBurst
		} else {
			in = probe.NetBurst
		}
		if err := exchange(t.Verb, out, in); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}
