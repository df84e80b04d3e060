package usernet

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/hvctl/hvctl/internal/hostnet"
)

// dialTimeout is how long somebody may take to accept the instance's
// connection.
const dialTimeout = 30 * time.Second

// connect carries a connection that the instance opens on. The instance learns
// that it is open, or refused, when that is so at the other end.
func (n *Stack) connect(r *tcp.ForwarderRequest) {
	host, err := n.dialHost(r)
	if err != nil {
		r.Complete(true) // a reset, as if nobody listened
		return
	}
	defer func() { <-n.slots }()
	defer host.Close()
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	if terr != nil {
		r.Complete(true)
		return
	}
	r.Complete(false)
	guest := &stream{TCPConn: gonet.NewTCPConn(&wq, ep), ep: ep}
	defer guest.Close()
	defer context.AfterFunc(n.ctx, func() { _ = host.Close(); _ = guest.Close() })()
	hostnet.Splice(guest, host)
}

// dialHost takes a slot, too.
func (n *Stack) dialHost(r *tcp.ForwarderRequest) (hostnet.Stream, error) {
	to, err := n.policy.target(called(r.ID().LocalAddress, r.ID().LocalPort))
	if err != nil {
		return nil, err
	}
	select {
	case n.slots <- struct{}{}:
	default:
		return nil, errRefused
	}
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	c, err := hostnet.DialTCP(ctx, to)
	if err != nil {
		<-n.slots
	}
	return c, err
}

// stream is a connection with the instance.
type stream struct {
	*gonet.TCPConn
	ep    tcpip.Endpoint
	abort atomic.Bool
}

// SetLinger makes Close a reset when seconds is 0.
func (s *stream) SetLinger(seconds int) error {
	s.abort.Store(seconds == 0)
	return nil
}

func (s *stream) Close() error {
	if s.abort.Load() {
		s.ep.Abort()
	}
	return s.TCPConn.Close()
}

// DialTCP connects to a port of the instance. It sees the gateway as the
// client.
func (n *Stack) DialTCP(ctx context.Context, port uint16) (hostnet.Stream, error) {
	var wq waiter.Queue
	ep, terr := n.s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if terr != nil {
		return nil, failure("make a connection", terr)
	}
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr = ep.Bind(tcpip.FullAddress{Addr: address(hostnet.UserGateway)})
	if terr == nil {
		terr = ep.Connect(n.instance(port))
	}
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-writable:
			terr = ep.LastError()
		case <-ctx.Done():
			ep.Abort()
			return nil, ctx.Err()
		}
	}
	if terr != nil {
		ep.Close()
		return nil, failure("connect to the instance", terr)
	}
	return &stream{TCPConn: gonet.NewTCPConn(&wq, ep), ep: ep}, nil
}

func (n *Stack) instance(port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: address(n.filter.ip), Port: port}
}

// failure is an error of the stack's as one of Go's.
func failure(what string, err tcpip.Error) error {
	return &net.OpError{Op: what, Net: "usernet", Err: &net.AddrError{Err: err.String()}}
}
