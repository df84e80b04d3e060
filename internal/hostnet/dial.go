package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Dialer reaches the ports of an instance: through the kernel, or through a
// stack of TCP/IP in a process (package usernet).
type Dialer interface {
	DialTCP(ctx context.Context, port uint16) (Stream, error)
	DialUDP(port uint16) (Flow, error)
}

// Stream is a TCP connection, as package net has it: CloseWrite passes the end
// of data on, SetLinger(0) makes Close a reset.
type Stream interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// Flow is a UDP socket with one peer.
type Flow interface {
	// Write sends one datagram. One that cannot be sent may be lost without an
	// error.
	Write(p []byte) (int, error)
	// Receive waits for a datagram and calls f with it, which does not keep it.
	// Flows that wait hold no buffer. The error is that the deadline passed or
	// that the flow is closed.
	Receive(f func(datagram []byte)) error
	SetReadDeadline(t time.Time) error
	Close() error
}

// kernelDialer dials an address by the kernel's means.
type kernelDialer netip.Addr

func (k kernelDialer) DialTCP(ctx context.Context, port uint16) (Stream, error) {
	return DialTCP(ctx, netip.AddrPortFrom(netip.Addr(k), port))
}

func (k kernelDialer) DialUDP(port uint16) (Flow, error) {
	return DialUDP(netip.AddrPortFrom(netip.Addr(k), port))
}

// DialTCP connects to an address by a socket of the kernel's.
func DialTCP(ctx context.Context, to netip.AddrPort) (Stream, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// DialUDP makes a socket of the kernel's with one peer.
func DialUDP(to netip.AddrPort) (Flow, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil, err
	}
	return &kernelFlow{c}, nil
}

type kernelFlow struct{ *net.UDPConn }

// flowBufs are for datagrams that are on their way.
var flowBufs = sync.Pool{New: func() any { b := make([]byte, maxUDPSize); return &b }}

// WithBuffer calls f with a buffer that takes any datagram.
func WithBuffer(f func(buf []byte)) {
	b := flowBufs.Get().(*[]byte)
	defer flowBufs.Put(b)
	f(*b)
}

func (k *kernelFlow) Receive(f func([]byte)) error {
	rc, err := k.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var n int
		var rerr error
		err := rc.Read(func(fd uintptr) bool {
			WithBuffer(func(buf []byte) {
				if n, rerr = unix.Read(int(fd), buf); rerr == nil {
					f(buf[:n])
				}
			})
			return rerr != unix.EAGAIN
		})
		switch {
		case err != nil:
			return err
		case rerr == nil:
			return nil
		case !errors.Is(rerr, unix.ECONNREFUSED) && !errors.Is(rerr, unix.EINTR): // those are of earlier datagrams
			return os.NewSyscallError("read", rerr)
		}
	}
}
