package hostnet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
)

// assertNothingLeft compares the namespace with what it was.
func assertNothingLeft(t *testing.T, root string, before []string) {
	t.Helper()
	if now := links(t); !slices.Equal(now, before) {
		t.Errorf("interfaces before: %v, now: %v", before, now)
	}
	if r := ruleset(t); r != "" {
		t.Errorf("nftables left:\n%s", r)
	}
	es, _ := os.ReadDir(filepath.Join(root, "net"))
	for _, e := range es {
		if e.Name() != "lock" {
			t.Errorf("file left: %s", e.Name())
		}
	}
}

func TestAttachCloseLeavesNothing(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before, fds := t.TempDir(), links(t), 0
	for i := range 3 {
		a, err := Attach(t.Context(), Options{Root: root, ID: "one", Publish: []Port{{Port: 80, Protocol: "tcp"}, {Port: 53, Protocol: "udp"}}})
		mustRun(t, "attach", err)
		if a.Gateway != gateway(a.IP) || a.MTU != 1500 || a.MAC.String() != DeriveMAC("one").String() || a.TapName != linkName("one") ||
			len(a.Ports) != 2 || a.Ports[0].HostPort == 0 || a.Tap == nil {
			t.Errorf("%+v", a)
		}
		if _, err := Attach(t.Context(), Options{Root: root, ID: "one"}); !errors.Is(err, ErrInterface) {
			t.Errorf("same instance twice: %v", err)
		}
		b, err := Attach(t.Context(), Options{Root: root, ID: "two", Queues: 2, MTU: 9000})
		mustRun(t, "attach", err)
		if b.IP.Addr() == a.IP.Addr() || len(b.Queues) != 2 || b.MTU != 9000 || b.Gateway != a.Gateway {
			t.Errorf("%+v", b)
		}
		l, err := netlink.LinkByName(b.TapName)
		mustRun(t, "look up tap", err)
		if l.Attrs().MTU != 9000 || l.Attrs().Flags&net.FlagUp == 0 || l.Attrs().MasterIndex == 0 {
			t.Errorf("%+v", l.Attrs())
		}
		for _, name := range []string{a.Bridge, a.TapName} {
			v, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
			if !errors.Is(err, os.ErrNotExist) && strings.TrimSpace(string(v)) != "1" {
				t.Errorf("%s has IPv6 (%q, %v)", name, v, err)
			}
		}
		mustRun(t, "close", a.Close())
		if ls := links(t); !slices.Contains(ls, b.Bridge) || slices.Contains(ls, a.TapName) {
			t.Errorf("with one left: %v", ls)
		}
		mustRun(t, "close", b.Close())
		mustRun(t, "close again", b.Close())
		assertNothingLeft(t, root, before)
		if i == 0 {
			fds = openFDs(t)
		} else if n := openFDs(t); n > fds {
			t.Errorf("round %d: %d descriptors, %d after the first", i, n, fds)
		}
	}
}

// The tap carries frames with the 12-byte header, and the gateway answers ARP.
func TestTapReachesGateway(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	a, err := Attach(t.Context(), Options{Root: t.TempDir(), ID: "one"})
	mustRun(t, "attach", err)
	defer a.Close()
	ask := append(make([]byte, vnetHdrLen), arpRequest(a.MAC, a.IP.Addr(), a.Gateway)...)
	buf := make([]byte, 2048)
	for end := time.Now().Add(10 * time.Second); ; {
		// Ask again: the kernel brings the bridge up a little later, and loses
		// what comes before.
		_, err := a.Tap.Write(ask)
		mustRun(t, "write", err)
		mustRun(t, "deadline", a.Tap.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		n, err := a.Tap.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end) {
			continue
		}
		mustRun(t, "read", err)
		f := buf[vnetHdrLen:n]
		// An answer (2) of the gateway to us.
		if len(f) >= 42 && binary.BigEndian.Uint16(f[12:]) == 0x806 && f[21] == 2 && bytes.Equal(f[28:32], a.Gateway.AsSlice()) {
			if !bytes.Equal(f[:6], a.MAC) {
				t.Errorf("to %x", f[:6])
			}
			return
		}
		if binary.BigEndian.Uint16(f[12:]) == 0x86dd {
			t.Errorf("the host speaks IPv6 to the guest: % x", f)
		}
	}
}

// TestAnInstanceSpeaksForItselfOnly: what claims another's address, or is
// neither IPv4 nor ARP, reaches neither host nor neighbours.
func TestAnInstanceSpeaksForItselfOnly(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root := t.TempDir()
	a, err := Attach(t.Context(), Options{Root: root, ID: "hostile"})
	mustRun(t, "attach", err)
	defer a.Close()
	b, err := Attach(t.Context(), Options{Root: root, ID: "victim"})
	mustRun(t, "attach", err)
	defer b.Close()

	ipv4 := func(mac net.HardwareAddr, from netip.Addr) []byte {
		f := append(bytes.Clone(b.MAC), mac...)
		f = append(f, 8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 253, 0, 0)
		f = append(f, from.AsSlice()...)
		f = append(f, b.IP.Addr().AsSlice()...)
		var sum uint32 // the bridge may check it
		for h := f[14:]; len(h) > 0; h = h[2:] {
			sum += uint32(binary.BigEndian.Uint16(h))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(f[24:], ^uint16(sum+sum>>16))
		return f
	}
	etherType := func(f []byte, typ ...byte) []byte { copy(f[12:], typ); return f }
	senderMAC := func(f []byte, mac net.HardwareAddr) []byte { copy(f[22:], mac); return f }
	gratuitous := func(ip netip.Addr) []byte { return arpRequest(a.MAC, ip, ip) }
	odd := arpRequest(a.MAC, b.IP.Addr(), a.Gateway)
	odd[18] = 8 // longer hardware addresses: the sender is elsewhere
	frames := []struct {
		name  string
		frame []byte
		pass  bool
	}{
		{"own ARP", gratuitous(a.IP.Addr()), true},
		{"own IPv4", ipv4(a.MAC, a.IP.Addr()), true},
		{"ARP probe", arpRequest(a.MAC, netip.IPv4Unspecified(), a.IP.Addr()), true},
		{"the gateway's ARP", gratuitous(a.Gateway), false},
		{"the victim's ARP", gratuitous(b.IP.Addr()), false},
		{"ARP for another MAC", senderMAC(gratuitous(a.IP.Addr()), b.MAC), false},
		{"odd ARP", odd, false},
		{"the victim's IPv4", ipv4(a.MAC, b.IP.Addr()), false},
		{"the gateway's IPv4", ipv4(a.MAC, a.Gateway), false},
		{"IPv6", etherType(ipv4(a.MAC, a.IP.Addr()), 0x86, 0xdd), false},
		{"VLAN", etherType(ipv4(a.MAC, a.IP.Addr()), 0x81, 0x00), false},
		{"PPPoE", etherType(ipv4(a.MAC, a.IP.Addr()), 0x88, 0x63), false},
		{"another MAC, which would take what is for it", ipv4(b.MAC, a.IP.Addr()), false},
	}
	pad := func(f []byte, mark byte) []byte {
		f = append(bytes.Clone(f), make([]byte, 64-len(f))...)
		f[63] = mark // behind what matters: tells the frames apart
		return append(make([]byte, vnetHdrLen), f...)
	}
	seen := map[byte]bool{}
	listen := func(until byte) bool {
		buf := make([]byte, 2048)
		mustRun(t, "deadline", b.Tap.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		for !seen[until] {
			n, err := b.Tap.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return false
			}
			mustRun(t, "read", err)
			if n == vnetHdrLen+64 {
				seen[buf[vnetHdrLen+63]] = true
			}
		}
		return true
	}
	const first, last = 200, 201
	hear := func(mark byte) { // the bridge forwards after a while, and in order
		eventually(t, "a frame gets through", func() bool {
			_, err := a.Tap.Write(pad(frames[0].frame, mark))
			mustRun(t, "write", err)
			return listen(mark)
		})
	}
	hear(first)
	for i, f := range frames {
		_, err := a.Tap.Write(pad(f.frame, byte(i+1)))
		mustRun(t, "write", err)
	}
	hear(last)
	for i, f := range frames {
		if seen[byte(i+1)] != f.pass {
			t.Errorf("%s: passed %v, want %v", f.name, !f.pass, f.pass)
		}
	}
}

func arpRequest(mac net.HardwareAddr, from, to netip.Addr) []byte {
	f := bytes.Repeat([]byte{0xff}, 6)
	f = append(f, mac...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(f, mac...)
	f = append(f, from.AsSlice()...)
	f = append(f, make([]byte, 6)...)
	return append(f, to.AsSlice()...)
}

func TestNATAndPublishedPorts(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	outside, guest := newHost(t), newHost(t)
	outside.connect(t, "up0", "eth0", prefix("192.0.2.2/24"), netip.Addr{}, nil)
	up, err := netlink.LinkByName("up0")
	mustRun(t, "find", err)
	mustRun(t, "address", netlink.AddrAdd(up, &netlink.Addr{IPNet: ipNet(prefix("192.0.2.1/24"))}))
	mustRun(t, "route", netlink.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Gw: addr("192.0.2.2").AsSlice()}))
	mustRun(t, "mtu", netlink.LinkSetMTU(up, 1400))

	a, err := Attach(t.Context(), Options{Root: t.TempDir(), ID: "one", Publish: []Port{{Port: 80, Protocol: "tcp"}, {Port: 80, Protocol: "udp"}}})
	mustRun(t, "attach", err)
	defer a.Close()
	if a.MTU != 1400 {
		t.Errorf("MTU %d, the uplink has 1400", a.MTU)
	}
	// The guest is a namespace in the tap's place.
	mustRun(t, "close tap", a.Tap.Close())
	guest.connect(t, "veth0", "eth0", a.IP, a.Gateway, a.MAC)
	near, err := netlink.LinkByName("veth0")
	mustRun(t, "find", err)
	br, err := netlink.LinkByName(a.Bridge)
	mustRun(t, "find", err)
	mustRun(t, "plug", netlink.LinkSetMaster(near, br))

	who := func(network string) func(t *testing.T, h *host, port string) (at string) {
		return func(t *testing.T, h *host, port string) (at string) {
			h.run(func() { at = serveWho(t, network, port) })
			return at
		}
	}
	get := func(h *host, network, at string) (from string, err error) {
		h.run(func() { from, err = askWho(network, at) })
		return from, err
	}
	serveT, serveU := who("tcp4"), who("udp4")
	serveT(t, outside, "80")
	serveU(t, outside, "80")
	serveT(t, guest, "80")
	serveU(t, guest, "80")
	for _, network := range []string{"tcp4", "udp4"} {
		// Out: seen as the host's address.
		if from, err := get(guest, network, "192.0.2.2:80"); err != nil || from != "192.0.2.1" {
			t.Errorf("%s from the guest seen as %q, %v", network, from, err)
		}
		// In, by the published port.
		for i, p := range a.Ports {
			if p.Protocol == network[:3] {
				if from, err := get(outside, network, fmt.Sprintf("192.0.2.1:%d", a.Ports[i].HostPort)); err != nil || from != a.Gateway.String() {
					t.Errorf("%s published: seen as %q, %v", network, from, err)
				}
				if from, err := askWho(network, fmt.Sprintf("127.0.0.1:%d", p.HostPort)); err != nil || from != a.Gateway.String() {
					t.Errorf("%s published on loopback: seen as %q, %v", network, from, err)
				}
			}
		}
	}
	// In, directly: the outside knows a route, and still does not get in.
	outside.run(func() {
		mustRun(t, "route", netlink.RouteAdd(&netlink.Route{Dst: ipNet(a.IP.Masked()), Gw: addr("192.0.2.1").AsSlice()}))
	})
	if from, err := get(outside, "udp4", netip.AddrPortFrom(a.IP.Addr(), 80).String()); err == nil {
		t.Errorf("reached from outside, seen as %q", from)
	}
	// Out, with somebody else's source address: the first datagram that the
	// outside sees is the honest one after it.
	seen := make(chan string, 10)
	outside.run(func() {
		u, err := net.ListenPacket("udp4", ":99")
		mustRun(t, "listen", err)
		t.Cleanup(func() { u.Close() })
		go func() {
			for {
				if _, from, err := u.ReadFrom(make([]byte, 10)); err == nil {
					seen <- from.(*net.UDPAddr).IP.String()
				} else {
					return
				}
			}
		}()
	})
	guest.run(func() {
		l, err := netlink.LinkByName("eth0")
		mustRun(t, "find", err)
		mustRun(t, "address", netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(prefix("10.200.0.9/32"))}))
		for _, from := range []string{"10.200.0.9:0", ":0"} {
			c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(addrPort(from)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.2:99")))
			mustRun(t, "dial", err)
			_, err = c.Write([]byte("x"))
			mustRun(t, "write", err)
			c.Close()
		}
	})
	if from := <-seen; from != "192.0.2.1" {
		t.Errorf("a datagram with a false source came out, seen as %s", from)
	}
	// A flushed table comes back with the next instance.
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	b, err := Attach(t.Context(), Options{Root: a.o.Root, ID: "two"})
	mustRun(t, "attach", err)
	defer b.Close()
	if from, err := get(guest, "tcp4", "192.0.2.2:80"); err != nil || from != "192.0.2.1" {
		t.Errorf("after the flush: seen as %q, %v", from, err)
	}
}

// addrPort parses "IP:PORT"; without an IP it is any.
func addrPort(s string) netip.AddrPort {
	if s[0] == ':' {
		s = "0.0.0.0" + s
	}
	return netip.MustParseAddrPort(s)
}

// serveWho tells every client its address.
func serveWho(t *testing.T, network, port string) string {
	if network == "udp4" {
		u, err := net.ListenPacket(network, ":"+port)
		mustRun(t, "listen", err)
		t.Cleanup(func() { u.Close() })
		go func() {
			buf := make([]byte, 10)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = io.WriteString(udpTo{u, from}, from.(*net.UDPAddr).IP.String())
			}
		}()
		return u.LocalAddr().String()
	}
	ln, err := net.Listen(network, ":"+port)
	mustRun(t, "listen", err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
	return ln.Addr().String()
}

type udpTo struct {
	net.PacketConn
	to net.Addr
}

func (u udpTo) Write(p []byte) (int, error) { return u.WriteTo(p, u.to) }

func askWho(network, at string) (string, error) {
	c, err := net.DialTimeout(network, at, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if network == "udp4" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func TestFiftyAtOnceLeakNothing(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before, fds := t.TempDir(), links(t), openFDs(t)
	for range 2 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		ips := map[netip.Addr]int{}
		for i := range 50 {
			wg.Go(func() {
				a, err := Attach(t.Context(), Options{Root: root, ID: fmt.Sprint("i", i), Publish: []Port{{Port: 80, Protocol: "tcp"}}})
				if err != nil {
					t.Errorf("%d: %v", i, err)
					return
				}
				mu.Lock()
				ips[a.IP.Addr()]++
				mu.Unlock()
				if err := a.Close(); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		assertNothingLeft(t, root, before)
	}
	if n := openFDs(t); n > fds+4 { // the poller's
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
}

// startHolder runs a process that attaches and waits.
func startHolder(t *testing.T, args string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"=holder "+args)
	out, err := c.StdoutPipe()
	mustRun(t, "pipe", err)
	_, err = c.StdinPipe()
	mustRun(t, "pipe", err)
	mustRun(t, "start", c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "attached ") {
		t.Fatalf("holder said %q, %v", line, err)
	}
	return c
}

func TestKilledHolderBlocksNothing(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before := t.TempDir(), links(t)
	first, err := Attach(t.Context(), Options{Root: root, ID: "first"})
	mustRun(t, "attach", err)
	want := first.IP.Addr().Next().Next()
	c := startHolder(t, fmt.Sprintf("%s victim %s", root, want))
	if _, err := Attach(t.Context(), Options{Root: root, ID: "x", IP: want}); !errors.Is(err, ErrAddressInUse) {
		t.Errorf("a living holder's address: %v", err)
	}
	mustRun(t, "kill", c.Process.Kill())
	_ = c.Wait()
	// Its address is free for another, and its ID for the next run.
	x, err := Attach(t.Context(), Options{Root: root, ID: "x", IP: want})
	mustRun(t, "take the address of the dead", err)
	mustRun(t, "close", x.Close())

	c = startHolder(t, fmt.Sprintf("%s victim %s", root, want))
	mustRun(t, "kill", c.Process.Kill())
	_ = c.Wait()
	v, err := Attach(t.Context(), Options{Root: root, ID: "victim", IP: want})
	mustRun(t, "same instance again", err)
	mustRun(t, "close", v.Close())
	mustRun(t, "close", first.Close())
	assertNothingLeft(t, root, before)

	// Killed as the last one: Cleanup takes the rest away, and is harmless then.
	c = startHolder(t, root+" victim")
	mustRun(t, "cleanup beside the living", Cleanup(t.Context(), Options{Root: root}))
	if ls := links(t); len(ls) != len(before)+2 {
		t.Errorf("cleanup removed what is used: %v", ls)
	}
	mustRun(t, "kill", c.Process.Kill())
	_ = c.Wait()
	for range 2 {
		mustRun(t, "cleanup", Cleanup(t.Context(), Options{Root: root}))
		assertNothingLeft(t, root, before)
	}
}

func TestAliveDecides(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root := t.TempDir()
	a, err := Attach(t.Context(), Options{Root: root, ID: "a"})
	mustRun(t, "attach", err)
	defer a.Close()
	alive := func(id string) bool { return id != "a" }
	b, err := Attach(t.Context(), Options{Root: root, ID: "b", IP: a.IP.Addr(), Alive: alive})
	if err != nil {
		t.Fatalf("address of an owner said to be dead: %v", err)
	}
	b.Close()
}

func TestExhaustedSubnet(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before := t.TempDir(), links(t)
	var as []*Attachment
	for i := range 5 {
		a, err := Attach(t.Context(), Options{Root: root, ID: fmt.Sprint(i), Subnet: prefix("10.99.0.0/29")})
		mustRun(t, "attach", err)
		as = append(as, a)
	}
	n := len(links(t))
	if _, err := Attach(t.Context(), Options{Root: root, ID: "x"}); !errors.Is(err, ErrExhausted) {
		t.Errorf("sixth: %v", err)
	}
	if now := len(links(t)); now != n {
		t.Errorf("%d interfaces before the failure, %d after", n, now)
	}
	for _, a := range as {
		mustRun(t, "close", a.Close())
	}
	assertNothingLeft(t, root, before)
}

func TestSubnetAvoidsWhatTheHostReaches(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root := t.TempDir()
	o := Options{Root: root, ID: "a", Bridge: defaultBridge}
	a, err := Attach(t.Context(), o)
	mustRun(t, "attach", err)
	if a.IP != prefix("10.77.0.2/16") {
		t.Errorf("without conflict: %s", a.IP)
	}
	mustRun(t, "close", a.Close())
	ether(t, "d0", prefix("10.77.5.1/24"))
	before := links(t)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	mustRun(t, "write", os.WriteFile(conf, []byte("nameserver 10.78.3.3\n"), 0o600))
	o.paths.resolvConf = conf
	a, err = Attach(t.Context(), o)
	mustRun(t, "attach", err)
	if a.IP != prefix("10.79.0.2/16") || !slices.Equal(a.DNS, []netip.Addr{addr("10.78.3.3")}) {
		t.Errorf("address %s, DNS %v", a.IP, a.DNS)
	}
	mustRun(t, "close", a.Close())
	o.Subnet = prefix("10.77.0.0/16")
	if _, err := Attach(t.Context(), o); !errors.Is(err, ErrSubnet) || !strings.Contains(err.Error(), "10.77.5") {
		t.Errorf("a wanted network that overlaps: %v", err)
	}
	assertNothingLeft(t, root, before)
}

func TestTwoRootsKeepApart(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	before := links(t)
	r1, r2 := t.TempDir(), t.TempDir()
	a, err := Attach(t.Context(), Options{Root: r1, ID: "a"})
	mustRun(t, "attach", err)
	b, err := Attach(t.Context(), Options{Root: r2, ID: "b"})
	mustRun(t, "attach", err)
	if a.Bridge == b.Bridge || a.IP.Masked().Overlaps(b.IP.Masked()) {
		t.Errorf("%s %s and %s %s", a.Bridge, a.IP, b.Bridge, b.IP)
	}
	if _, err := Attach(t.Context(), Options{Root: r2, ID: "c", Bridge: a.Bridge}); !errors.Is(err, ErrInterface) || !strings.Contains(err.Error(), r1) {
		t.Errorf("another root's bridge: %v", err)
	}
	mustRun(t, "close", a.Close())
	if !slices.Contains(links(t), b.Bridge) || !strings.Contains(ruleset(t), b.Bridge) {
		t.Error("closing one root's last took the other's")
	}
	mustRun(t, "close", b.Close())
	assertNothingLeft(t, r1, before)
}

func TestForeignThingsAreLeftAlone(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root := t.TempDir()
	if out, err := exec.Command("nft", "add table ip mine; add chain ip mine c; add rule ip mine c counter").CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	rules := ruleset(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br-admin"
	mustRun(t, "bridge", netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	br, err := netlink.LinkByName("br-admin")
	mustRun(t, "find", err)
	mustRun(t, "address", netlink.AddrAdd(br, &netlink.Addr{IPNet: ipNet(prefix("172.30.0.1/24"))}))
	ether(t, "notbr", prefix("172.29.0.1/24"))
	before := links(t)
	a, err := Attach(t.Context(), Options{Root: root, ID: "a", Bridge: "br-admin"})
	mustRun(t, "attach", err)
	if a.IP != prefix("172.30.0.2/24") {
		t.Errorf("address %s", a.IP)
	}
	if _, err := Attach(t.Context(), Options{Root: root, ID: "b", Bridge: "notbr"}); !errors.Is(err, ErrInterface) || !strings.Contains(err.Error(), "is a veth") {
		t.Errorf("no bridge: %v", err)
	}
	mustRun(t, "close", a.Close())
	if now := links(t); !slices.Equal(now, before) {
		t.Errorf("interfaces before: %v, now: %v", before, now)
	}
	if now := ruleset(t); now != rules {
		t.Errorf("rules before:\n%s\nnow:\n%s", rules, now)
	}
}

func TestForeignTapIsNotJoined(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkName("a")
	mustRun(t, "tap", netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}))
	root, before := t.TempDir(), links(t)
	if _, err := Attach(t.Context(), Options{Root: root, ID: "a"}); !errors.Is(err, ErrInterface) || !strings.Contains(err.Error(), attrs.Name) {
		t.Errorf("got %v", err)
	}
	assertNothingLeft(t, root, before)
}

// A tap that somebody still holds after Close does not keep the bridge.
func TestHeldTapDoesNotKeepTheBridge(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before := t.TempDir(), links(t)
	a, err := Attach(t.Context(), Options{Root: root, ID: "a"})
	mustRun(t, "attach", err)
	rc, err := a.Tap.SyscallConn()
	mustRun(t, "tap", err)
	held := -1
	mustRun(t, "tap", rc.Control(func(fd uintptr) { held, err = unix.Dup(int(fd)) }))
	mustRun(t, "dup", err)
	mustRun(t, "close", a.Close())
	if ls := links(t); slices.Contains(ls, a.Bridge) {
		t.Errorf("left: %v", ls)
	}
	mustRun(t, "close", unix.Close(held))
	assertNothingLeft(t, root, before)
}

func TestDNSOfALoopbackResolverIsForwarded(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	mustRun(t, "write", os.WriteFile(conf, []byte("nameserver 127.0.0.1\n"), 0o600))
	o := Options{Root: t.TempDir(), ID: "a", paths: paths{resolvConf: conf, resolvedRun: "/nonexistent"}}
	a, err := Attach(t.Context(), o)
	mustRun(t, "attach", err)
	defer a.Close()
	o.ID = "b" // a second process's forwarder shares the port
	b, err := Attach(t.Context(), o)
	mustRun(t, "attach", err)
	defer b.Close()
	if !slices.Equal(a.DNS, []netip.Addr{a.Gateway}) || len(a.serving) != 1 || len(b.serving) != 1 {
		t.Errorf("DNS %v, serving %d and %d", a.DNS, len(a.serving), len(b.serving))
	}
	o.ID, o.DNS = "c", []netip.Addr{addr("9.9.9.9")}
	c, err := Attach(t.Context(), o)
	mustRun(t, "attach", err)
	defer c.Close()
	if !slices.Equal(c.DNS, o.DNS) || len(c.serving) != 0 {
		t.Errorf("asked-for DNS became %v", c.DNS)
	}
}

func TestFailureAfterPortsGivesThemBack(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before, fds := t.TempDir(), links(t), openFDs(t)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	mustRun(t, "listen", err)
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	ln.Close()
	_, err = Attach(t.Context(), Options{Root: root, ID: "a", IP: addr("8.8.8.8"), Publish: []Port{{HostPort: port, Port: 1, Protocol: "tcp"}}})
	if !errors.Is(err, ErrOptions) {
		t.Errorf("got %v", err)
	}
	assertNothingLeft(t, root, before)
	ln, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
	mustRun(t, "the port is free again", err)
	ln.Close()
	if n := openFDs(t); n > fds+4 {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
}
