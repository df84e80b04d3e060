package hostnet

import (
	"container/list"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxUDP bounds the sessions of one published port; the one idle for
	// longest makes room.
	maxUDP = 1024
	// udpIdle ends a session, counted from the last datagram either way. The
	// kernel's own connection tracking gives streams 120 s.
	udpIdle    = 120 * time.Second
	maxUDPSize = 65535
)

// udpKey tells sessions apart: who asks, and which of the host's addresses was
// asked (invalid when the socket has just one).
type udpKey struct {
	client netip.AddrPort
	local  netip.Addr
}

// udpProxy carries the datagrams of a published port to the instance and the
// answers back, one socket for each client.
type udpProxy struct {
	conn  *net.UDPConn
	dial  func() (Flow, error)
	log   *slog.Logger
	limit int
	idle  time.Duration
	wg    sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	sessions map[udpKey]*udpSession
	order    *list.List // of *udpSession, the one used last in front
}

type udpSession struct {
	key  udpKey
	flow Flow
	elem *list.Element
	oob  []byte // makes answers leave from the address that was asked
}

func serveUDP(conn *net.UDPConn, dial func() (Flow, error), log *slog.Logger, ports int) *udpProxy {
	return serveUDPMax(conn, dial, log, udpLimit(ports), udpIdle)
}

// udpLimit is how many sessions each of the published ports may have.
func udpLimit(ports int) int { return max(1, min(descriptors(ports), maxUDP)) }

func serveUDPMax(conn *net.UDPConn, dial func() (Flow, error), log *slog.Logger, limit int, idle time.Duration) *udpProxy {
	p := &udpProxy{
		conn: conn, dial: dial, log: log, limit: limit, idle: idle,
		sessions: map[udpKey]*udpSession{}, order: list.New(),
	}
	p.wg.Add(1)
	go p.fromClients()
	return p
}

func (p *udpProxy) fromClients() {
	defer p.wg.Done()
	buf, oob := make([]byte, maxUDPSize), make([]byte, 128)
	for {
		n, oobn, _, from, err := p.conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			p.mu.Lock()
			closed := p.closed
			p.mu.Unlock()
			if closed {
				return
			}
			continue // an ICMP error of some earlier answer; it is consumed now
		}
		s := p.session(udpKey{from, localAddr(oob[:oobn])})
		if s == nil {
			continue
		}
		// An instance that does not listen, or a full buffer: the datagram is
		// lost, as datagrams may be.
		_, _ = s.flow.Write(buf[:n])
	}
}

// session finds or makes the session of k and marks it used.
func (p *udpProxy) session(k udpKey) *udpSession {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.sessions[k]; ok {
		p.touch(s)
		return s
	}
	if p.closed {
		return nil
	}
	if len(p.sessions) >= p.limit {
		p.drop(p.order.Back().Value.(*udpSession))
	}
	c, err := p.dial()
	if err != nil {
		p.log.Debug("open a session", "err", err)
		return nil
	}
	s := &udpSession{key: k, flow: c, oob: answerFrom(k)}
	s.elem = p.order.PushFront(s)
	p.sessions[k] = s
	p.touch(s)
	p.wg.Add(1)
	go p.toClient(s)
	return s
}

// touch and drop need the lock.
func (p *udpProxy) touch(s *udpSession) {
	p.order.MoveToFront(s.elem)
	_ = s.flow.SetReadDeadline(time.Now().Add(p.idle))
}

func (p *udpProxy) drop(s *udpSession) {
	if p.sessions[s.key] == s {
		delete(p.sessions, s.key)
		p.order.Remove(s.elem)
	}
	_ = s.flow.Close()
}

// toClient carries the instance's answers until the session is idle.
func (p *udpProxy) toClient(s *udpSession) {
	defer p.wg.Done()
	defer func() {
		p.mu.Lock()
		p.drop(s)
		p.mu.Unlock()
	}()
	for {
		err := s.flow.Receive(func(datagram []byte) {
			_, _, _ = p.conn.WriteMsgUDPAddrPort(datagram, s.oob, s.key.client)
		})
		if err != nil {
			return // idle for too long, or closed
		}
		p.mu.Lock()
		if p.sessions[s.key] == s {
			p.touch(s)
		}
		p.mu.Unlock()
	}
}

// close ends every session and waits for the goroutines.
func (p *udpProxy) close() {
	p.mu.Lock()
	p.closed = true
	for _, s := range p.sessions {
		p.drop(s)
	}
	p.mu.Unlock()
	_ = p.conn.Close()
	p.wg.Wait()
}

// localAddr reads the address a datagram was sent to from its control
// messages.
func localAddr(oob []byte) netip.Addr {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 20:
			return netip.AddrFrom16([16]byte(m.Data[:16])).Unmap() // struct in6_pktinfo: addr, ifindex
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			return netip.AddrFrom4([4]byte(m.Data[4:8])) // struct in_pktinfo: ifindex, spec_dst, addr
		}
	}
	return netip.Addr{}
}

// answerFrom makes the control message that sends an answer from k.local. A
// socket of family 6 takes IPv4 addresses in mapped form.
func answerFrom(k udpKey) []byte {
	if !k.local.IsValid() || k.local.IsMulticast() {
		return nil
	}
	if k.client.Addr().Is4() { // Go reports mapped clients of a 6 socket as mapped
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: k.local.Unmap().As4()})
	}
	info := &unix.Inet6Pktinfo{Addr: k.local.As16()}
	if k.local.IsLinkLocalUnicast() {
		return nil // it needs the interface; the route knows
	}
	return unix.PktInfo6(info)
}
