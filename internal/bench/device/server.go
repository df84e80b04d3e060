package device

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/bench/device/probe"
)

// server is the host's end of the network's tests. Calls block, as the probe's do:
// what a runtime's poller costs is not what is measured.
type server struct {
	listener, datagrams int
	wg                  sync.WaitGroup
	mu                  sync.Mutex // guards what follows
	conns               map[int]struct{}
	closed              bool
}

func serve(addr netip.Addr) (*server, error) {
	s := &server{listener: -1, datagrams: -1, conns: map[int]struct{}{}}
	at := &unix.SockaddrInet4{Port: probe.NetPort, Addr: addr.As4()}
	var err error
	if s.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
		err = errors.Join(unix.SetsockoptInt(s.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(s.listener, at), unix.Listen(s.listener, 16))
	}
	if err == nil {
		if s.datagrams, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(s.datagrams, at)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve %s: %w", addr, err), s.close())
	}
	s.wg.Go(s.accept)
	s.wg.Go(s.answer)
	return s, nil
}

func (s *server) accept() {
	for {
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		if s.closed {
			unix.Close(fd)
		} else {
			s.conns[fd] = struct{}{}
			s.wg.Go(func() { s.connection(fd) })
		}
		s.mu.Unlock()
	}
}

// connection does what its first byte asks for, until the guest ends it.
func (s *server) connection(fd int) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, fd)
		unix.Close(fd)
		s.mu.Unlock()
	}()
	buf := make([]byte, probe.NetChunk)
	if _, err := unix.Read(fd, buf[:1]); err != nil {
		return
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return
	}
	verb := buf[0]
	for got := 0; ; {
		n, err := unix.Read(fd, buf)
		if err != nil || n == 0 {
			return
		}
		switch verb {
		case probe.NetEcho:
			_, err = unix.Write(fd, buf[:n])
		case probe.NetTake: // an answer for each chunk of the agreed size
			if got += n; got >= probe.NetBatch {
				got -= probe.NetBatch
				_, err = unix.Write(fd, buf[:1])
			}
		case probe.NetGive: // the agreed size for each byte
			for sent := 0; sent < n*probe.NetBatch && err == nil; {
				var m int
				m, err = unix.Write(fd, buf)
				sent += m
			}
		default:
			return
		}
		if err != nil {
			return
		}
	}
}

// answer serves the datagrams: as many as agreed get one answer, and one question
// as many answers.
func (s *server) answer() {
	buf := make([]byte, 2048)
	got := 0
	for {
		n, from, err := unix.Recvfrom(s.datagrams, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || from == nil || s.ended() {
			return
		}
		if n == 0 {
			continue
		}
		switch buf[0] {
		case probe.NetTake:
			if got++; got%probe.NetBurst != 0 {
				continue
			}
			_ = unix.Sendto(s.datagrams, buf[:n], 0, from) // the guest waits and says so
		case probe.NetGive:
			for range probe.NetBurst {
				_ = unix.Sendto(s.datagrams, buf[:n], 0, from)
			}
		default: // a new guest begins
			got = 0
			_ = unix.Sendto(s.datagrams, buf[:n], 0, from)
		}
	}
}

func (s *server) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// close wakes everybody and waits for them.
func (s *server) close() error {
	s.mu.Lock()
	s.closed = true
	for _, fd := range []int{s.listener, s.datagrams} {
		if fd >= 0 {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR) // says ENOTCONN of datagrams, and wakes them all the same
		}
	}
	for fd := range s.conns {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	}
	s.mu.Unlock()
	s.wg.Wait()
	var err error
	for _, fd := range []int{s.listener, s.datagrams} {
		if fd >= 0 {
			err = errors.Join(err, os.NewSyscallError("close", unix.Close(fd)))
		}
	}
	return err
}
