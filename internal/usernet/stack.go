package usernet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/hvctl/hvctl/internal/hostnet"
)

const (
	nic = 1
	// waiting bounds the frames for an instance that does not take them.
	waiting = 256
	// tcpBuffer is how much a connection may hold for either end: three of the
	// largest segments. With maxTCP it bounds what connections can take.
	tcpBuffer = 192 << 10
	// maxTCP bounds the connections of the instance to others.
	maxTCP = 512
	// maxDialing bounds those that are not made yet; more wait for the
	// instance to ask again.
	maxDialing = 128
)

// gatewayMAC is the stack's Ethernet address: locally administered.
const gatewayMAC = tcpip.LinkAddress("\x52\x55\x0a\x00\x02\x02")

// Stack is the network of one instance.
type Stack struct {
	filter filter
	policy policy
	log    *slog.Logger
	s      *stack.Stack
	link   *channel.Endpoint
	ctx    context.Context
	stop   context.CancelFunc
	slots  chan struct{} // connections of the instance's
	udp    sessions
}

// New makes the network. Preconditions: c.Check found nothing.
func New(c *hostnet.UserConfig, log *slog.Logger) (*Stack, error) {
	r, err := newRoutes()
	if err != nil {
		return nil, err
	}
	return newStack(c, policy{host: c.ReachHost, servers: hostnet.NameServers, beyond: r.beyond}, log)
}

func newStack(c *hostnet.UserConfig, p policy, log *slog.Logger) (*Stack, error) {
	n := &Stack{
		filter: filter{mac: c.MAC, ip: c.IP, own: ownAddress}, policy: p, log: log,
		slots: make(chan struct{}, maxTCP),
	}
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.udp.init()
	n.s = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	n.link = channel.New(waiting, hostnet.UserMTU, gatewayMAC)
	// Nothing lies between the instance and us that could damage a frame.
	n.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	if err := n.configure(c); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Stack) configure(c *hostnet.UserConfig) error {
	var errs []error
	note := func(what string, err tcpip.Error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("network stack: %s: %s", what, err))
		}
	}
	sack := tcpip.TCPSACKEnabled(true)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: tcpBuffer, Max: tcpBuffer}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: tcpBuffer, Max: tcpBuffer}
	note("SACK", n.s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack))
	note("send buffers", n.s.SetTransportProtocolOption(tcp.ProtocolNumber, &send))
	note("receive buffers", n.s.SetTransportProtocolOption(tcp.ProtocolNumber, &receive))
	note("interface", n.s.CreateNIC(nic, ethernet.New(n.link)))
	// It is everybody the instance may call.
	note("any address", n.s.SetPromiscuousMode(nic, true))
	note("any sender", n.s.SetSpoofing(nic, true))
	own := []netip.Addr{hostnet.UserGateway, hostnet.UserDNS}
	for len(own) <= hostnet.MaxUserDNS {
		own = append(own, own[len(own)-1].Next())
	}
	for _, a := range own {
		note(a.String(), n.s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          ipv4.ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(a), PrefixLen: hostnet.UserSubnet.Bits()},
		}, stack.AddressProperties{}))
	}
	// The instance does not choose where its frames go.
	note("neighbour", n.s.AddStaticNeighbor(nic, ipv4.ProtocolNumber, address(c.IP), tcpip.LinkAddress(c.MAC)))
	n.s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	n.s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(n.s, tcpBuffer, maxDialing, n.connect).HandlePacket)
	n.s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(n.s, n.datagram).HandlePacket)
	return errors.Join(errs...)
}

// Input takes a frame of the instance's, which it does not keep.
func (n *Stack) Input(frame []byte) {
	if !n.filter.pass(frame) {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame[headerLen:])})
	n.link.InjectInbound(0, pkt)
	pkt.DecRef()
}

// Output waits for a frame for the instance and writes it into frame, which has
// room for maxFrame bytes. 0 when ctx has ended.
func (n *Stack) Output(ctx context.Context, frame []byte) int {
	pkt := n.link.ReadContext(ctx)
	if pkt == nil {
		return 0
	}
	defer pkt.DecRef()
	clear(frame[:headerLen])
	size := headerLen
	for _, s := range pkt.AsSlices() {
		size += copy(frame[size:], s)
	}
	return size
}

// Close ends every connection.
func (n *Stack) Close() {
	n.stop()
	n.udp.close()
	n.s.Destroy()
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }

// called is the address that the instance called, or is called from.
func called(a tcpip.Address, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(a.As4()), port)
}
