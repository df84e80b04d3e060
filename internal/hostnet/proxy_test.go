package hostnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var quiet = slog.New(slog.DiscardHandler)

func listenTCP(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	mustRun(t, "listen", err)
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

func tcpAddr(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

// tcpPair starts a proxy to a listener of its own.
func tcpPair(t *testing.T, limit int) (proxy netip.AddrPort, inst *net.TCPListener, p *tcpProxy) {
	t.Helper()
	inst = listenTCP(t)
	front := listenTCP(t)
	p = serveTCPMax(front, toTCP(tcpAddr(inst)), quiet, limit)
	t.Cleanup(p.close)
	return tcpAddr(front), inst, p
}

func dialTCP(t *testing.T, a netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	mustRun(t, "dial", err)
	t.Cleanup(func() { c.Close() })
	mustRun(t, "deadline", c.SetDeadline(time.Now().Add(10*time.Second)))
	return c.(*net.TCPConn)
}

func TestTCPHalfCloseGoesThrough(t *testing.T) {
	at, inst, _ := tcpPair(t, 8)
	go func() {
		c, err := inst.AcceptTCP()
		if err != nil {
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c) // ends only with the client's half close
		_, _ = c.Write(append([]byte("got "), all...))
	}()
	c := dialTCP(t, at)
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	_, err := c.Write(big)
	mustRun(t, "write", err)
	mustRun(t, "half close", c.CloseWrite())
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, append([]byte("got "), big...)) {
		t.Errorf("%d bytes back, %v", len(got), err)
	}
}

func TestTCPRefusalReachesTheClient(t *testing.T) {
	at, inst, _ := tcpPair(t, 8)
	inst.Close()
	c, err := net.Dial("tcp", at.String())
	if err == nil { // else the reset came before connect(2) was seen to end
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestTCPResetOfInstanceEndsClient(t *testing.T) {
	at, inst, _ := tcpPair(t, 8)
	c := dialTCP(t, at)
	s, err := inst.AcceptTCP()
	mustRun(t, "accept", err)
	mustRun(t, "linger", s.SetLinger(0))
	s.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("got %v", err)
	}
}

func TestTCPFloodIsBoundedAndSlowClientsDoNotStopOthers(t *testing.T) {
	const limit = 4
	at, inst, p := tcpPair(t, limit)
	accepted := make(chan *net.TCPConn, 100)
	go func() {
		for {
			c, err := inst.AcceptTCP()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	var clients []*net.TCPConn
	for range limit - 1 { // half-open: connect and say nothing
		clients = append(clients, dialTCP(t, at))
	}
	echo := dialTCP(t, at)
	for range limit {
		c := <-accepted
		go func() { _, _ = io.Copy(c, c); c.Close() }()
	}
	_, err := echo.Write([]byte("hi"))
	mustRun(t, "write", err)
	if _, err := io.ReadFull(echo, make([]byte, 2)); err != nil {
		t.Fatalf("echo beside silent clients: %v", err)
	}
	for range 50 {
		clients = append(clients, dialTCP(t, at)) // wait in the backlog
	}
	p.mu.Lock()
	n := len(p.conns)
	p.mu.Unlock()
	if n > 2*limit {
		t.Errorf("%d sockets for a limit of %d connections", n, limit)
	}
	// When the silent ones leave, those that waited get their turn.
	for _, c := range clients[:limit-1] {
		c.Close()
	}
	c := <-accepted
	c.Close()
}

func TestTCPCloseEndsEverything(t *testing.T) {
	fds := openFDs(t)
	inst, front := listenTCP(t), listenTCP(t)
	p := serveTCPMax(front, toTCP(tcpAddr(inst)), quiet, 8)
	c := dialTCP(t, tcpAddr(front))
	s, err := inst.AcceptTCP()
	mustRun(t, "accept", err)
	p.close()
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("client after close: %v", err)
	}
	c.Close()
	s.Close()
	inst.Close()
	if _, err := net.Dial("tcp", tcpAddr(front).String()); err == nil {
		t.Error("still listening")
	}
	eventually(t, "descriptors are given back", func() bool { return openFDs(t) <= fds+6 }) // splice keeps a few pipes
}

// udpPair starts a proxy to an echo server that answers "NAME:payload" with
// the port it saw.
func udpPair(t *testing.T, bind string, limit int, idle time.Duration) (*udpProxy, netip.AddrPort) {
	t.Helper()
	inst, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	mustRun(t, "listen", err)
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := inst.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = inst.WriteToUDPAddrPort(fmt.Appendf(nil, "%d:%s", from.Port(), buf[:n]), from)
		}
	}()
	l, err := listen(Port{HostIP: addrOrZero(bind), Port: 1, Protocol: "udp"})
	mustRun(t, "listen", err)
	p := serveUDPMax(l.udp, toUDP(inst.LocalAddr().(*net.UDPAddr).AddrPort()), quiet, limit, idle)
	t.Cleanup(func() { p.close(); inst.Close() })
	return p, l.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

func addrOrZero(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return addr(s)
}

func dialUDP(t *testing.T, to string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", to)
	mustRun(t, "dial", err)
	t.Cleanup(func() { c.Close() })
	mustRun(t, "deadline", c.SetDeadline(time.Now().Add(10*time.Second)))
	return c
}

func ask(t *testing.T, c net.Conn, q string) string {
	t.Helper()
	_, err := c.Write([]byte(q))
	mustRun(t, "write", err)
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	mustRun(t, "read", err)
	return string(buf[:n])
}

func TestUDPSessionsAreApart(t *testing.T) {
	_, at := udpPair(t, "127.0.0.1", 16, time.Minute)
	a, b := dialUDP(t, at.String()), dialUDP(t, at.String())
	ra, rb := ask(t, a, "x"), ask(t, b, "y")
	pa, va, _ := strings.Cut(ra, ":")
	pb, vb, _ := strings.Cut(rb, ":")
	if va != "x" || vb != "y" || pa == pb {
		t.Errorf("%q and %q", ra, rb)
	}
	if again := ask(t, a, "z"); again != pa+":z" {
		t.Errorf("the session changed: %q then %q", ra, again)
	}
	if big := ask(t, a, strings.Repeat("b", 60000)); len(big) != len(pa)+1+60000 {
		t.Errorf("%d bytes", len(big))
	}
}

// A connected client socket takes answers only from the address it asked: the
// kernel checks what is to be proved.
func TestUDPAnswersFromTheAddressAsked(t *testing.T) {
	for _, bind := range []string{"", "0.0.0.0"} {
		_, at := udpPair(t, bind, 16, time.Minute)
		for _, host := range []string{"127.0.0.1", "127.7.7.7"} {
			c := dialUDP(t, netip.AddrPortFrom(addr(host), at.Port()).String())
			if got := ask(t, c, "q"); !strings.HasSuffix(got, ":q") {
				t.Errorf("bound to %q, asked %s: %q", bind, host, got)
			}
		}
	}
	if _, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		return // no IPv6 here
	}
	_, at := udpPair(t, "", 16, time.Minute)
	if got := ask(t, dialUDP(t, fmt.Sprintf("[::1]:%d", at.Port())), "6"); !strings.HasSuffix(got, ":6") {
		t.Error(got)
	}
}

func TestUDPFloodIsBounded(t *testing.T) {
	p, at := udpPair(t, "127.0.0.1", 4, time.Minute)
	first := dialUDP(t, at.String())
	one := ask(t, first, "1")
	for range 40 {
		ask(t, dialUDP(t, at.String()), "flood")
	}
	p.mu.Lock()
	n := len(p.sessions)
	p.mu.Unlock()
	if n > 4 {
		t.Errorf("%d sessions for a limit of 4", n)
	}
	if again := ask(t, first, "1"); again == one {
		t.Errorf("the oldest session survived the flood: %q", again)
	}
}

func TestUDPIdleSessionsEnd(t *testing.T) {
	p, at := udpPair(t, "127.0.0.1", 4, 20*time.Millisecond)
	ask(t, dialUDP(t, at.String()), "x")
	eventually(t, "the idle session ends", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.sessions) == 0 && p.order.Len() == 0
	})
	if got := ask(t, dialUDP(t, at.String()), "y"); !strings.HasSuffix(got, ":y") {
		t.Error(got)
	}
}

func TestUDPSurvivesAnInstanceThatDoesNotListen(t *testing.T) {
	dead, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	mustRun(t, "listen", err)
	target := dead.LocalAddr().(*net.UDPAddr).AddrPort()
	dead.Close()
	l, err := listen(Port{HostIP: addr("127.0.0.1"), Port: 1, Protocol: "udp"})
	mustRun(t, "listen", err)
	p := serveUDPMax(l.udp, toUDP(target), quiet, 4, time.Minute)
	defer p.close()
	c := dialUDP(t, l.udp.LocalAddr().String())
	for range 5 { // the refusals come back as errors on the session's socket
		_, err := c.Write([]byte("x"))
		mustRun(t, "write", err)
	}
	inst, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(target))
	mustRun(t, "listen again", err)
	defer inst.Close()
	go func() {
		buf := make([]byte, 16)
		for {
			n, from, err := inst.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = inst.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	eventually(t, "an answer", func() bool {
		_, _ = c.Write([]byte("y"))
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := c.Read(make([]byte, 16))
		return err == nil && n == 1
	})
}

func TestPortInUseNamesPortAndHolder(t *testing.T) {
	root := t.TempDir()
	ln := listenTCP(t)
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	mustRun(t, "listen", err)
	defer u.Close()
	for _, p := range []Port{
		{HostIP: addr("127.0.0.1"), HostPort: tcpAddr(ln).Port(), Port: 80, Protocol: "tcp"},
		{HostPort: tcpAddr(ln).Port(), Port: 80, Protocol: "tcp"},
		{HostPort: u.LocalAddr().(*net.UDPAddr).AddrPort().Port(), Port: 80, Protocol: "udp"},
	} {
		fds := openFDs(t)
		o := Options{Root: root, ID: "a", Publish: []Port{{Port: 1, Protocol: "tcp"}, p}}
		mustRun(t, "options", o.fill())
		_, err := listenAll(&o)
		if !errors.Is(err, ErrPortInUse) || !strings.Contains(err.Error(), p.String()) ||
			!strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
			t.Errorf("%s: %v", p, err)
		}
		if n := openFDs(t); n > fds { // earlier tests may still be closing some
			t.Errorf("%s: %d descriptors before, %d after", p, fds, n)
		}
	}
}

func TestPortInUseNamesTheInstance(t *testing.T) {
	root := t.TempDir()
	mustRun(t, "mkdir", os.Mkdir(root+"/net", 0o700))
	ln := listenTCP(t)
	p := Port{HostIP: addr("127.0.0.1"), HostPort: tcpAddr(ln).Port(), Port: 80, Protocol: "tcp"}
	o := Options{Root: root, ID: "b", Publish: []Port{p}}
	mustRun(t, "options", o.fill())
	l, err := loadLeases(root, o.Bridge)
	mustRun(t, "load", err)
	l.ByID["0123456789abcdef"] = lease{IP: addr("10.77.0.2"), MAC: "02:00:00:00:00:01", Link: "hv-a", Ports: []Port{p}}
	mustRun(t, "save", l.save())
	if _, err := listenAll(&o); !errors.Is(err, ErrPortInUse) || !strings.Contains(err.Error(), "instance 0123456789ab") {
		t.Error(err)
	}
}

func TestPortZeroChooses(t *testing.T) {
	o := Options{Root: "/x", ID: "a", Publish: []Port{{Port: 80, Protocol: "tcp"}, {Port: 53, Protocol: "udp"}}}
	mustRun(t, "options", o.fill())
	ls, err := listenAll(&o)
	mustRun(t, "listen", err)
	defer closeBound(ls)
	for _, l := range ls {
		if l.port.HostPort == 0 {
			t.Errorf("%+v", l.port)
		}
	}
}

// dnsServer answers with the query's bytes, its answer bit set, after a
// spoofed answer with a wrong ID.
func dnsServer(t *testing.T, at string) (port uint16) {
	t.Helper()
	u, err := net.ListenPacket("udp4", at)
	mustRun(t, "listen", err)
	port = u.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	ln, err := net.Listen("tcp4", u.LocalAddr().String())
	mustRun(t, "listen", err)
	t.Cleanup(func() { u.Close(); ln.Close() })
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			bad := bytes.Clone(buf[:n])
			bad[0] ^= 0xff
			bad[2] |= 0x80
			_, _ = u.WriteTo(bad, from)
			buf[2] |= 0x80
			_, _ = u.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			m, err := readMessage(c)
			if err == nil {
				m[2] |= 0x80
				_ = writeMessage(c, m)
			}
			c.Close()
		}
	}()
	return port
}

func dnsForward(t *testing.T, from, conf string, port uint16) *dnsForwarder {
	t.Helper()
	p := paths{resolvConf: t.TempDir() + "/resolv.conf"}
	mustRun(t, "write", os.WriteFile(p.resolvConf, []byte(conf), 0o600))
	s, err := listenDNS(netip.MustParseAddrPort("127.0.0.1:0"))
	mustRun(t, "listen", err)
	f := forwardDNS(s, port, prefix(from), p, quiet)
	t.Cleanup(f.close)
	return f
}

func TestDNSForwards(t *testing.T) {
	port := dnsServer(t, "127.0.0.2:0")
	// The first server is dead: its port refuses.
	f := dnsForward(t, "127.0.0.0/8", "nameserver 127.0.0.3\nnameserver 127.0.0.2\n", port)
	q := []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00name")
	want := bytes.Clone(q)
	want[2] |= 0x80
	if got := ask(t, dialUDP(t, f.udp.LocalAddr().String()), string(q)); got != string(want) {
		t.Errorf("udp: %q", got)
	}
	c := dialTCP(t, tcpAddr(f.tcp))
	for range 2 { // several on one connection
		mustRun(t, "write", writeMessage(c, q))
		if got, err := readMessage(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("tcp: %q, %v", got, err)
		}
	}
}

func TestDNSServesOnlyItsGuests(t *testing.T) {
	port := dnsServer(t, "127.0.0.2:0")
	f := dnsForward(t, "10.77.0.0/16", "nameserver 127.0.0.2\n", port)
	c := dialTCP(t, tcpAddr(f.tcp))
	_ = writeMessage(c, make([]byte, 20))
	if m, err := readMessage(c); err == nil {
		t.Errorf("answered %q", m)
	}
}

func TestDNSHostileClientsAreBounded(t *testing.T) {
	// Upstream swallows everything, so queries stay under way.
	u, err := net.ListenPacket("udp4", "127.0.0.2:0")
	mustRun(t, "listen", err)
	defer u.Close()
	f := dnsForward(t, "127.0.0.0/8", "nameserver 127.0.0.2\n", u.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	c := dialUDP(t, f.udp.LocalAddr().String())
	for range 20 {
		_, _ = c.Write([]byte("short"))
	}
	for range 10 * maxQueries {
		_, _ = c.Write(make([]byte, 20))
	}
	eventually(t, "queries under way", func() bool { return len(f.slots) > 0 })
	if len(f.slots) > maxQueries {
		t.Errorf("%d queries at once", len(f.slots))
	}
	f.close() // ends them without waiting for their time
}

// TestDNSOneGuestLeavesRoomForOthers: connections that say nothing take a guest's
// own share and no more.
func TestDNSOneGuestLeavesRoomForOthers(t *testing.T) {
	port := dnsServer(t, "127.0.0.2:0")
	f := dnsForward(t, "127.0.0.0/8", "nameserver 127.0.0.2\n", port)
	for range 2 * maxQueries {
		dialTCP(t, tcpAddr(f.tcp))
	}
	eventually(t, "the flood has its share", func() bool { return len(f.slots) >= maxPerClient })
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	c, err := d.Dial("udp4", f.udp.LocalAddr().String())
	mustRun(t, "dial", err)
	defer c.Close()
	q := make([]byte, 20)
	mustRun(t, "deadline", c.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = c.Write(q)
	mustRun(t, "write", err)
	if n, err := c.Read(make([]byte, 100)); err != nil || n != len(q) {
		t.Errorf("the neighbour's query: %d bytes, %v", n, err)
	}
	if len(f.slots) > maxPerClient+1 {
		t.Errorf("one guest has %d of %d", len(f.slots), maxQueries)
	}
}

// TestPortsShareTheDescriptors: however many ports are published, and whoever
// floods them, half of the descriptors are for everything else.
func TestPortsShareTheDescriptors(t *testing.T) {
	var r unix.Rlimit
	mustRun(t, "getrlimit", unix.Getrlimit(unix.RLIMIT_NOFILE, &r))
	for _, ports := range []int{1, 2, 10, 100} {
		tcp, udp := uint64(tcpLimit(ports)), uint64(udpLimit(ports))
		if tcp < 1 || udp < 1 || r.Cur > 4096 && (tcp*fdsPerConn*uint64(ports) > r.Cur/2 || udp*uint64(ports) > r.Cur/2) {
			t.Errorf("%d ports: %d connections or %d sessions each, of %d descriptors", ports, tcp, udp, r.Cur)
		}
	}
}

func FuzzBoundInodes(f *testing.F) {
	f.Add([]byte("  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := map[string]bool{}
		boundInodes(data, Port{HostPort: 8080, Protocol: "tcp"}, m)
		boundInodes(data, Port{HostPort: 8080, Protocol: "udp"}, m)
	})
}

func TestMessageReaderRefusesNonsense(t *testing.T) {
	for _, s := range []string{"", "\x00", "\x00\x05hello", "\x00\x20short"} {
		if m, err := readMessage(strings.NewReader(s)); err == nil {
			t.Errorf("%q: %q", s, m)
		}
	}
}

func toTCP(to netip.AddrPort) func(context.Context) (Stream, error) {
	return func(ctx context.Context) (Stream, error) { return DialTCP(ctx, to) }
}

func toUDP(to netip.AddrPort) func() (Flow, error) {
	return func() (Flow, error) { return DialUDP(to) }
}
