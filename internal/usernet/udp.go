package usernet

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/hvctl/hvctl/internal/hostnet"
)

const (
	// maxUDP bounds the instance's sessions with others; the one idle for
	// longest makes room.
	maxUDP = 512
	// udpIdle ends a session; one with a name server is over sooner.
	udpIdle    = 120 * time.Second
	domainIdle = 15 * time.Second
)

// sessions are the instance's UDP conversations with others.
type sessions struct {
	mu     sync.Mutex
	closed bool
	order  *list.List // of *session, the one used last in front
}

// session is one: a flow with the instance, and one with the other end.
type session struct {
	guest, host hostnet.Flow
	idle        time.Duration
	elem        *list.Element
}

func (t *sessions) init() { t.order = list.New() }

// datagram begins a session with its first datagram; later ones go to the
// session's endpoint. What the instance may not reach is lost.
func (n *Stack) datagram(r *udp.ForwarderRequest) {
	to, err := n.policy.target(called(r.ID().LocalAddress, r.ID().LocalPort))
	if err != nil {
		return
	}
	host, err := hostnet.DialUDP(to)
	if err != nil {
		return
	}
	wq := &waiter.Queue{}
	ep, terr := r.CreateEndpoint(wq)
	if terr != nil {
		_ = host.Close()
		return
	}
	s := &session{guest: newFlow(ep, wq), host: host, idle: idleFor(to)}
	if !n.udp.add(s) {
		s.close()
		return
	}
	go n.udp.carry(s, s.guest, s.host)
	go n.udp.carry(s, s.host, s.guest)
}

func idleFor(to netip.AddrPort) time.Duration {
	if to.Port() == domainPort {
		return domainIdle
	}
	return udpIdle
}

// carry passes datagrams on, one way, until the session is over.
func (t *sessions) carry(s *session, from, to hostnet.Flow) {
	defer t.drop(s)
	for from.Receive(func(d []byte) { _, _ = to.Write(d) }) == nil {
		t.touch(s)
	}
}

func (t *sessions) add(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if t.order.Len() >= maxUDP {
		t.dropLocked(t.order.Back().Value.(*session))
	}
	s.elem = t.order.PushFront(s)
	s.until(time.Now().Add(s.idle))
	return true
}

func (t *sessions) touch(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.elem != nil {
		t.order.MoveToFront(s.elem)
		s.until(time.Now().Add(s.idle))
	}
}

func (t *sessions) drop(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropLocked(s)
}

func (t *sessions) dropLocked(s *session) {
	if s.elem != nil {
		t.order.Remove(s.elem)
		s.elem = nil
		s.close()
	}
}

func (t *sessions) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for t.order.Len() > 0 {
		t.dropLocked(t.order.Back().Value.(*session))
	}
}

func (s *session) until(end time.Time) {
	_ = s.guest.SetReadDeadline(end) // fails only when closed
	_ = s.host.SetReadDeadline(end)
}

func (s *session) close() {
	_ = s.guest.Close()
	_ = s.host.Close()
}

// DialUDP makes a flow with a port of the instance, which sees the gateway as
// its peer.
func (n *Stack) DialUDP(port uint16) (hostnet.Flow, error) {
	wq := &waiter.Queue{}
	ep, err := n.s.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	if err != nil {
		return nil, failure("make a flow", err)
	}
	if err = ep.Bind(tcpip.FullAddress{Addr: address(hostnet.UserGateway)}); err == nil {
		err = ep.Connect(n.instance(port))
	}
	if err != nil {
		ep.Close()
		return nil, failure("make a flow", err)
	}
	return newFlow(ep, wq), nil
}
