package hostnet

import (
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func setLinkUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// host is another network namespace, a machine of its own for the network.
type host struct {
	do  chan func()
	tid int
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		err := unix.Unshare(unix.CLONE_NEWNET)
		h.tid = unix.Gettid()
		ready <- err
		for f := range h.do {
			f()
		}
	}()
	mustRun(t, "make a network namespace", <-ready)
	t.Cleanup(func() { close(h.do) })
	h.run(func() { mustRun(t, "loopback", setLinkUp("lo")) })
	return h
}

// run runs f in the namespace and waits.
func (h *host) run(f func()) {
	done := make(chan struct{})
	h.do <- func() { defer close(done); f() }
	<-done
}

// connect makes a veth: end near stays here, end far goes into h and gets an
// address and, when via is valid, a default route.
func (h *host) connect(t *testing.T, near, far string, p netip.Prefix, via netip.Addr, mac net.HardwareAddr) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = near
	mustRun(t, "add veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerHardwareAddr: mac, PeerNamespace: netlink.NsPid(h.tid)}))
	mustRun(t, "up", setLinkUp(near))
	h.run(func() {
		l, err := netlink.LinkByName(far)
		mustRun(t, "find "+far, err)
		mustRun(t, "address", netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p)}))
		mustRun(t, "up", netlink.LinkSetUp(l))
		if via.IsValid() {
			mustRun(t, "route", netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: via.AsSlice()}))
		}
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ether adds an interface with an address.
func ether(t *testing.T, name string, p netip.Prefix) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	mustRun(t, "add veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "-peer"}))
	mustRun(t, "up", setLinkUp(name+"-peer")) // a link without carrier has no routes
	l, err := netlink.LinkByName(name)
	mustRun(t, "find", err)
	mustRun(t, "address", netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p)}))
	mustRun(t, "up", netlink.LinkSetUp(l))
}

// links lists the namespace's interfaces.
func links(t testing.TB) []string {
	t.Helper()
	ls, err := netlink.LinkList()
	mustRun(t, "list links", err)
	var names []string
	for _, l := range ls {
		names = append(names, l.Attrs().Name)
	}
	return names
}

// ruleset is what `nft list ruleset` prints.
func ruleset(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}
