package usernet

import (
	"bytes"

	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"github.com/hvctl/hvctl/internal/hostnet"
)

func gateway(port uint16) netip.AddrPort { return netip.AddrPortFrom(hostnet.UserGateway, port) }

// A connection to the gateway's address is one to the host's loopback, and both
// ends of data are passed on.
func TestGatewayLeadsToTheHost(t *testing.T) {
	w := start(t, open())
	c, err := w.dialTCP(gateway(echoTCP(t).Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := make([]byte, 3<<20)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	_ = c.SetReadDeadline(time.Now().Add(60 * time.Second))
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if want := append(sent, "bye"...); !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, %d expected, or they differ", len(got), len(want))
	}
}

func TestRefusedConnectionIsReset(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	ln.Close()
	w := start(t, open())
	for _, to := range []netip.AddrPort{gateway(port), netip.MustParseAddrPort("169.254.169.254:80"), netip.MustParseAddrPort("10.0.2.99:80")} {
		c, err := w.dialTCP(to)
		if err == nil {
			c.Close()
			t.Errorf("%s: connected", to)
		} else if !strings.Contains(err.Error(), "refused") && !strings.Contains(err.Error(), "route") && !strings.Contains(err.Error(), "unreachable") {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// An end that breaks off is seen as such at the other end.
func TestResetOfTheHostReachesTheGuest(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	w := start(t, open())
	go func() {
		if c, err := ln.Accept(); err == nil {
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	c, err := w.dialTCP(gateway(ln.Addr().(*net.TCPAddr).AddrPort().Port()))
	if err != nil {
		return // the reset came before the handshake was over
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after a reset: %v", err)
	}
}

func TestUDPGoesBothWays(t *testing.T) {
	w := start(t, open())
	server := echoUDP(t)
	for _, size := range []int{0, 1, 1400, 65000} {
		c := w.dialUDP(t, gateway(portOf(server)))
		want := bytes.Repeat([]byte{'x'}, size)
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 65535)
		n, err := c.Read(got)
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("%d bytes sent: %d came back, %v", size, n, err)
		}
	}
}

func TestNameServersAreReachedByTheirPlace(t *testing.T) {
	p := open(loopback)
	for _, tc := range []struct {
		name, to string
		servers  []netip.Addr
		want     string
	}{
		{"the first", "10.0.2.3:53", []netip.Addr{loopback}, "127.0.0.1:53"},
		{"the second", "10.0.2.4:53", []netip.Addr{loopback, netip.MustParseAddr("2001:db8::1")}, "[2001:db8::1]:53"},
		{"one that has gone meanwhile", "10.0.2.5:53", []netip.Addr{loopback}, "127.0.0.1:53"},
		{"none", "10.0.2.3:53", nil, ""},
		{"another port", "10.0.2.3:80", []netip.Addr{loopback}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p.servers = func() []netip.Addr { return tc.servers }
			got, err := p.target(netip.MustParseAddrPort(tc.to))
			if tc.want == "" {
				if !errors.Is(err, errRefused) {
					t.Errorf("got %s, %v", got, err)
				}
			} else if err != nil || got.String() != tc.want {
				t.Errorf("got %s, %v; want %s", got, err, tc.want)
			}
		})
	}
}

// TestHostIsReachedByTheGatewayOnly asks the real routes about the machine's own
// addresses.
func TestHostIsReachedByTheGatewayOnly(t *testing.T) {
	r, err := newRoutes()
	if err != nil {
		t.Fatal(err)
	}
	p := policy{host: true, servers: func() []netip.Addr { return nil }, beyond: r.beyond}
	refused := []string{"127.0.0.1", "127.8.9.1", "0.0.0.0", "0.1.2.3", "255.255.255.255", "224.0.0.1", "240.0.0.1", "169.254.1.1", "10.0.2.0", "10.0.2.1", "10.0.2.15", "10.0.2.255"}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, err := netip.ParsePrefix(a.String()); err == nil && ip.Addr().Is4() {
			refused = append(refused, ip.Addr().String())
		}
	}
	for _, a := range refused {
		if to, err := p.target(netip.AddrPortFrom(netip.MustParseAddr(a), 80)); !errors.Is(err, errRefused) {
			t.Errorf("%s leads to %s (%v)", a, to, err)
		}
	}
	if to, err := p.target(gateway(80)); err != nil || to.String() != "127.0.0.1:80" {
		t.Errorf("the gateway leads to %s, %v", to, err)
	}
	p.host = false
	if to, err := p.target(gateway(80)); !errors.Is(err, errRefused) {
		t.Errorf("the gateway leads to %s, though the host is not to be reached (%v)", to, err)
	}
}

// publish binds ports on the host's loopback.
func publish(t *testing.T, w *network, p hostnet.Port) netip.AddrPort {
	t.Helper()
	p.HostIP = loopback
	b, err := hostnet.Bind([]hostnet.Port{p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	b.Serve(w.Stack, quiet)
	return netip.AddrPortFrom(loopback, b.Ports()[0].HostPort)
}

func TestPublishedTCPPort(t *testing.T) {
	w := start(t, open())
	host := publish(t, w, hostnet.Port{Port: 80, Protocol: "tcp"})
	if early, err := net.Dial("tcp", host.String()); err == nil { // or the reset comes at once
		if _, err := io.ReadAll(early); err == nil {
			t.Error("a port that nobody listens to in the guest: no reset")
		}
		early.Close()
	}
	ln, err := gonet.ListenTCP(w.guest, full(netip.AddrPortFrom(hostnet.UserIP, 80)), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	from := make(chan net.Addr, 1)
	go func() {
		if c, err := ln.Accept(); err == nil {
			from <- c.RemoteAddr()
			echo(c)
		}
	}()
	c, err := net.Dial("tcp", host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("hello "))
	_ = c.(*net.TCPConn).CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello bye" {
		t.Errorf("%q, %v", got, err)
	}
	if a := (<-from).(*net.TCPAddr); a.IP.String() != hostnet.UserGateway.String() {
		t.Errorf("the guest sees %s as the client", a)
	}
}

func TestPublishedUDPPort(t *testing.T) {
	w := start(t, open())
	host := publish(t, w, hostnet.Port{Port: 53, Protocol: "udp"})
	local := full(netip.AddrPortFrom(hostnet.UserIP, 53))
	pc, err := gonet.DialUDP(w.guest, &local, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	for range 2 { // clients do not get each other's answers
		c, err := net.Dial("udp", host.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = c.Write([]byte(c.LocalAddr().String()))
		buf := make([]byte, 100)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != c.LocalAddr().String() {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
}

// A guest that opens session after session has maxUDP of them, the newest.
func TestUDPSessionsAreBounded(t *testing.T) {
	w := start(t, open())
	server := echoUDP(t)
	var last *gonet.UDPConn
	for range maxUDP + 10 {
		last = w.dialUDP(t, gateway(portOf(server)))
		_, _ = last.Write([]byte("x"))
		if _, err := last.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	w.udp.mu.Lock()
	n := w.udp.order.Len()
	w.udp.mu.Unlock()
	if n != maxUDP {
		t.Errorf("%d sessions, %d are allowed", n, maxUDP)
	}
	if _, err := last.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := last.Read(make([]byte, 10)); err != nil {
		t.Errorf("the newest session: %v", err)
	}
}

// A guest that holds all its connections gets no more, and those it has work.
func TestConnectionsAreBounded(t *testing.T) {
	w := start(t, open())
	for range maxTCP - 1 { // as if it held them
		w.slots <- struct{}{}
	}
	to := gateway(echoTCP(t).Port())
	c, err := w.dialTCP(to)
	if err != nil {
		t.Fatal(err)
	}
	if more, err := w.dialTCP(to); err == nil {
		more.Close()
		t.Error("one connection too many")
	}
	_, _ = c.Write([]byte("x"))
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection before: %v", err)
	}
	c.Close()
	for end := time.Now().Add(20 * time.Second); ; { // its place is free again, soon
		if c, err = w.dialTCP(to); err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestFlowEndsWithItsDeadline(t *testing.T) {
	w := start(t, open())
	f, err := w.DialUDP(9)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.SetReadDeadline(time.Now())
	if err := f.Receive(func([]byte) {}); err == nil {
		t.Error("nothing was received")
	}
	_ = f.SetReadDeadline(time.Now().Add(time.Hour))
	go f.Close()
	if err := f.Receive(func([]byte) {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed while waiting: %v", err)
	}
}
