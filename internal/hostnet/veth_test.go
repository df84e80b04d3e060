package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/hvctl/hvctl/internal/testenv"
)

// namespaceFile opens h's network namespace.
func (h *host) namespaceFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", h.tid))
	mustRun(t, "open the namespace", err)
	t.Cleanup(func() { f.Close() })
	return f
}

// TestContainerIsANeighbour: an interface in a namespace is on the bridge with
// address and route, next to a tap, and nothing is left of it.
func TestContainerIsANeighbour(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before := t.TempDir(), links(t)
	inside := newHost(t)
	ns := inside.namespaceFile(t)
	if _, err := Attach(t.Context(), Options{Root: root, ID: "c", NetNS: ns, Queues: 2}); !errors.Is(err, ErrOptions) {
		t.Errorf("queues of a container: %v", err)
	}
	vm, err := Attach(t.Context(), Options{Root: root, ID: "vm"})
	mustRun(t, "attach", err)
	a, err := Attach(t.Context(), Options{Root: root, ID: "c", NetNS: ns, Publish: []Port{{Port: 80, Protocol: "tcp"}}})
	mustRun(t, "attach", err)
	if a.Tap != nil || a.Bridge != vm.Bridge || a.Gateway != vm.Gateway || a.IP.Masked() != vm.IP.Masked() || a.IP == vm.IP {
		t.Errorf("%+v beside %+v", a, vm)
	}
	if _, err := Attach(t.Context(), Options{Root: root, ID: "c", NetNS: ns}); !errors.Is(err, ErrInterface) {
		t.Errorf("the same twice: %v", err)
	}
	inside.run(func() {
		l, err := netlink.LinkByName("eth0")
		mustRun(t, "look up eth0", err)
		if l.Attrs().HardwareAddr.String() != a.MAC.String() || l.Attrs().MTU != a.MTU {
			t.Errorf("eth0 is %+v", l.Attrs())
		}
		srv, err := net.Listen("tcp4", net.JoinHostPort(a.IP.Addr().String(), "80"))
		mustRun(t, "listen inside", err)
		t.Cleanup(func() { srv.Close() })
		go func() {
			for {
				c, err := srv.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("hi"))
				c.Close()
			}
		}()
	})
	for _, addr := range []string{net.JoinHostPort(a.IP.Addr().String(), "80"), fmt.Sprintf("127.0.0.1:%d", a.Ports[0].HostPort)} {
		c, err := net.Dial("tcp4", addr)
		mustRun(t, "dial "+addr, err)
		var b [2]byte
		if _, err := c.Read(b[:]); err != nil || string(b[:]) != "hi" {
			t.Errorf("%s says %q (%v)", addr, b, err)
		}
		c.Close()
	}
	// The kernel tells of a carrier's change a little later than it happens, and of one that
	// is gone as down or, if the peer's index is another, as the lower layer's.
	carrier := func(want bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("eth0 has a carrier: %v", want), func() (is bool) {
			inside.run(func() {
				l, err := netlink.LinkByName("eth0")
				mustRun(t, "look up eth0", err)
				is = l.Attrs().OperState == netlink.OperUp
			})
			return is == want
		})
	}
	carrier(true)
	mustRun(t, "pull the cable", a.SetLink(false))
	carrier(false)
	mustRun(t, "plug it in", a.SetLink(true))
	carrier(true)
	if rx, tx, err := a.Traffic(); err != nil || rx == 0 || tx == 0 {
		t.Errorf("traffic %d, %d (%v)", rx, tx, err)
	}
	mustRun(t, "close", vm.Close())
	mustRun(t, "close", a.Close())
	assertNothingLeft(t, root, before)
}

// TestDeadContainerIsUnplugged: what a killed owner left is taken off the
// bridge although its namespace still lives.
func TestDeadContainerIsUnplugged(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before := t.TempDir(), links(t)
	inside := newHost(t)
	_, err := Attach(t.Context(), Options{Root: root, ID: "dead", NetNS: inside.namespaceFile(t)})
	mustRun(t, "attach", err)
	mustRun(t, "clean up", Cleanup(t.Context(), Options{Root: root, Alive: func(string) bool { return true }}))
	if len(links(t)) == len(before) {
		t.Error("a living one was unplugged")
	}
	mustRun(t, "clean up", Cleanup(t.Context(), Options{Root: root, Alive: func(string) bool { return false }}))
	assertNothingLeft(t, root, before)
}

// TestContainerSpeaksForItselfOnly: with another's address it is not heard.
func TestContainerSpeaksForItselfOnly(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root := t.TempDir()
	inside := newHost(t)
	a, err := Attach(t.Context(), Options{Root: root, ID: "c", NetNS: inside.namespaceFile(t)})
	mustRun(t, "attach", err)
	defer a.Close()
	heard, err := net.ListenUDP("udp4", &net.UDPAddr{IP: a.Gateway.AsSlice()})
	mustRun(t, "listen", err)
	defer heard.Close()
	other := netip.PrefixFrom(a.IP.Addr().Next(), 32)
	inside.run(func() {
		l, err := netlink.LinkByName("eth0")
		mustRun(t, "look up eth0", err)
		mustRun(t, "take another's address", netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(other)}))
		for _, from := range []netip.Addr{other.Addr(), a.IP.Addr()} { // in this order: the second tells that the first is lost
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: from.AsSlice()}, heard.LocalAddr().(*net.UDPAddr))
			mustRun(t, "dial", err)
			_, err = c.Write([]byte(from.String()))
			mustRun(t, "send", err)
			c.Close()
		}
	})
	b := make([]byte, 64)
	mustRun(t, "deadline", heard.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, _, err := heard.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != a.IP.Addr().String() {
		t.Errorf("heard %q (%v), want only %s", b[:n], err, a.IP.Addr())
	}
}
