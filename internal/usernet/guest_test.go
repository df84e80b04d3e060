package usernet

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/hvctl/hvctl/internal/hostnet"
)

var (
	guestMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	quiet    = slog.New(slog.DiscardHandler)
	loopback = netip.MustParseAddr("127.0.0.1")
)

func config() *hostnet.UserConfig {
	return &hostnet.UserConfig{MAC: guestMAC, IP: hostnet.UserIP}
}

// open is a policy for which nothing but the reserved is the host's.
func open(servers ...netip.Addr) policy {
	return policy{host: true, servers: func() []netip.Addr { return servers }, beyond: func(netip.Addr) bool { return true }}
}

// network is a Stack and, behind it, a guest with a TCP/IP stack of its own.
type network struct {
	*Stack
	guest *stack.Stack
	link  *channel.Endpoint
}

func start(t *testing.T, p policy) *network {
	t.Helper()
	n, err := newStack(config(), p, quiet)
	if err != nil {
		t.Fatal(err)
	}
	w := &network{Stack: n, link: channel.New(waiting, hostnet.UserMTU, tcpip.LinkAddress(guestMAC))}
	w.guest = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	must := func(err tcpip.Error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.guest.CreateNIC(nic, ethernet.New(w.link)))
	must(w.guest.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(hostnet.UserIP), PrefixLen: hostnet.UserSubnet.Bits()},
	}, stack.AddressProperties{}))
	subnet, _ := tcpip.NewSubnet(address(hostnet.UserSubnet.Addr()), tcpip.MaskFrom("\xff\xff\xff\x00"))
	w.guest.SetRouteTable([]tcpip.Route{
		{Destination: subnet, NIC: nic},
		{Destination: header.IPv4EmptySubnet, Gateway: address(hostnet.UserGateway), NIC: nic},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { // to the guest
		buf := make([]byte, maxFrame)
		for size := n.Output(ctx, buf); size > 0; size = n.Output(ctx, buf) {
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(buf[headerLen:size])})
			w.link.InjectInbound(0, pkt)
			pkt.DecRef()
		}
		done <- struct{}{}
	}()
	go func() { // from the guest
		for pkt := w.link.ReadContext(ctx); pkt != nil; pkt = w.link.ReadContext(ctx) {
			frame := make([]byte, headerLen)
			for _, s := range pkt.AsSlices() {
				frame = append(frame, s...)
			}
			pkt.DecRef()
			n.Input(frame)
		}
		done <- struct{}{}
	}()
	t.Cleanup(func() {
		n.Close()
		w.guest.Destroy()
		cancel()
		<-done
		<-done
	})
	return w
}

func (w *network) dialTCP(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, w.guest, full(to), ipv4.ProtocolNumber)
}

func (w *network) dialUDP(t *testing.T, to netip.AddrPort) *gonet.UDPConn {
	t.Helper()
	remote := full(to)
	c, err := gonet.DialUDP(w.guest, nil, &remote, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: address(a.Addr()), Port: a.Port()}
}

// echoTCP is a server of the host's that says everything back, and "bye" when
// the client has said all.
func echoTCP(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go echo(c.(*net.TCPConn))
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func echo(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			_, _ = c.Write([]byte("bye"))
			return
		}
	}
}

// echoUDP says every datagram back.
func echoUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = pc.WriteTo(buf[:n], from)
			}
		}
	}()
	return pc.(*net.UDPConn)
}

func portOf(c interface{ LocalAddr() net.Addr }) uint16 {
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}
