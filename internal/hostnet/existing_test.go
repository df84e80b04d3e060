package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/hvctl/hvctl/internal/testenv"
)

func addTap(t *testing.T, name string, mode netlink.TuntapMode, flags netlink.TuntapFlag) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	link := &netlink.Tuntap{LinkAttrs: attrs, Mode: mode, Flags: flags}
	if flags&netlink.TUNTAP_MULTI_QUEUE != 0 {
		link.Queues = 1
	}
	mustRun(t, "make "+name, netlink.LinkAdd(link))
	closeAll(link.Fds)
	mustRun(t, "MTU", netlink.LinkSetMTU(link, 1400))
	mustRun(t, "bring up "+name, setLinkUp(name))
}

// A tap that somebody has made is used as it is, and left so.
func TestExistingTapIsUsedAndLeft(t *testing.T) {
	if !inNetns(t) {
		return
	}
	addTap(t, "one", netlink.TUNTAP_MODE_TAP, netlink.TUNTAP_NO_PI|netlink.TUNTAP_VNET_HDR)
	addTap(t, "many", netlink.TUNTAP_MODE_TAP, netlink.TUNTAP_NO_PI|netlink.TUNTAP_VNET_HDR|netlink.TUNTAP_MULTI_QUEUE)
	before := links(t)
	p := netip.MustParsePrefix("192.0.2.9/24")
	for _, o := range []TapOptions{
		{Interface: "one", ID: "x", Address: p, Gateway: netip.MustParseAddr("192.0.2.1")},
		{Interface: "many", ID: "x", Queues: 3, MTU: 1200},
	} {
		for range 2 { // Close gives it back
			a, err := AttachTap(o)
			mustRun(t, "attach", err)
			if len(a.Queues) != max(o.Queues, 1) || a.Tap != a.Queues[0] || a.IP != o.Address || a.Gateway != o.Gateway || a.MAC == nil {
				t.Errorf("%+v", a)
			}
			want := 1400
			if o.MTU != 0 {
				want = o.MTU
			}
			if a.MTU != want {
				t.Errorf("MTU %d, want %d", a.MTU, want)
			}
			if o.Queues == 0 {
				if _, err := AttachTap(o); !errors.Is(err, ErrInterface) || !strings.Contains(err.Error(), "in use by another program") {
					t.Errorf("a second user: %v", err)
				}
			}
			mustRun(t, "close", a.Close())
		}
	}
	if now := links(t); len(now) != len(before) {
		t.Errorf("links %v, before %v", now, before)
	}
}

// A tap's removal is noticed though nobody reads it, and nothing else is.
func TestRemovalOfATapIsNoticed(t *testing.T) {
	if !inNetns(t) {
		return
	}
	addTap(t, "one", netlink.TUNTAP_MODE_TAP, netlink.TUNTAP_NO_PI|netlink.TUNTAP_VNET_HDR)
	addTap(t, "other", netlink.TUNTAP_MODE_TAP, netlink.TUNTAP_NO_PI|netlink.TUNTAP_VNET_HDR)
	a, err := AttachTap(TapOptions{Interface: "one", ID: "x"})
	mustRun(t, "attach", err)
	watched := int(a.Tap.Fd())
	mustRun(t, "unwatch", a.Unwatch())
	if a.Tap != a.Queues[0] || testenv.Polled(t)[watched] != "" || testenv.Polled(t)[int(a.Tap.Fd())] != "" {
		t.Errorf("the poller watches %v", testenv.Polled(t))
	}
	r, err := a.WatchRemoval()
	mustRun(t, "watch", err)
	defer r.Close()
	remove := func(name string) {
		l, err := netlink.LinkByName(name)
		mustRun(t, "look up "+name, err)
		mustRun(t, "remove "+name, netlink.LinkDel(l))
	}
	l, err := netlink.LinkByName("one")
	mustRun(t, "look up", err)
	mustRun(t, "change", netlink.LinkSetDown(l))
	remove("other")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("noticed something: %v", err)
	}
	r, err = a.WatchRemoval()
	mustRun(t, "watch again", err)
	defer r.Close()
	remove("one")
	mustRun(t, "wait", r.Wait(t.Context()))
	mustRun(t, "close", a.Close())
	if _, err := a.WatchRemoval(); err == nil {
		t.Error("one that is gone is watched")
	}
}

func TestUnusableInterfaceIsRefusedWithWhatToDo(t *testing.T) {
	if !inNetns(t) {
		return
	}
	addTap(t, "one", netlink.TUNTAP_MODE_TAP, netlink.TUNTAP_NO_PI|netlink.TUNTAP_VNET_HDR)
	addTap(t, "routed", netlink.TUNTAP_MODE_TUN, netlink.TUNTAP_NO_PI)
	for _, c := range []struct {
		o    TapOptions
		is   error
		says string
	}{
		{TapOptions{Interface: "none"}, ErrInterface, "ip tuntap add dev none mode tap"},
		{TapOptions{Interface: "lo"}, ErrInterface, "no tap and no macvtap"},
		{TapOptions{Interface: "routed"}, ErrInterface, "is a tun"},
		{TapOptions{Interface: "one", Queues: 2}, ErrInterface, "multi_queue"},
		{TapOptions{Interface: "one", MTU: 9000}, ErrOptions, "more than the 1400"},
		{TapOptions{Interface: "one", MTU: 9}, ErrOptions, "MTU 9"},
		{TapOptions{Interface: "one", Queues: 1000}, ErrOptions, "1000 queues"},
		{TapOptions{Interface: "../one"}, ErrOptions, "no name"},
		{TapOptions{Interface: "one", MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}}, ErrOptions, "MAC address"},
		{TapOptions{Interface: "one", Gateway: netip.MustParseAddr("192.0.2.1")}, ErrOptions, "gateway"},
	} {
		a, err := AttachTap(c.o)
		if a != nil || !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.says)
		}
	}
}

// Frames for a macvtap come in by its own address only, so it is the guest's.
func TestMacvtapGivesItsAddress(t *testing.T) {
	if !inNetns(t, testenv.NetModules) {
		return
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up"
	mustRun(t, "veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far"}))
	up, err := netlink.LinkByName("up")
	mustRun(t, "look up", err)
	attrs = netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "mv", up.Attrs().Index
	mustRun(t, "macvtap", netlink.LinkAdd(&netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}}))
	mv, err := netlink.LinkByName("mv")
	mustRun(t, "look up", err)
	a, err := AttachTap(TapOptions{Interface: "mv", ID: "x"})
	mustRun(t, "attach", err)
	defer a.Close()
	if a.MAC.String() != mv.Attrs().HardwareAddr.String() {
		t.Errorf("MAC %s, the interface's is %s", a.MAC, mv.Attrs().HardwareAddr)
	}
	if _, err := AttachTap(TapOptions{Interface: "mv", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}); !errors.Is(err, ErrOptions) {
		t.Errorf("another's address: %v", err)
	}
}
