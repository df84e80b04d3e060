package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideName is what a container's interface is called inside.
const insideName = "eth0"

// makeVeth makes a pair of interfaces: name here, eth0 in the namespace. The
// kernel removes both when the namespace ends, so they cannot outlive the
// container's processes.
func (b *bridge) makeVeth(name string, mac net.HardwareAddr, ns *os.File) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	err := b.h.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: insideName, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(int(ns.Fd())),
	})
	if err != nil {
		return wrap(fmt.Sprintf("make the interface %s, and %s in the container", name, insideName), err)
	}
	return nil
}

// unplug removes the host's end of a pair; a tap goes with its last descriptor.
func (b *bridge) unplug(name string) error {
	link, err := b.h.LinkByName(name)
	if err != nil || link.Type() != "veth" {
		return nil // gone, or not of our making
	}
	if err := b.h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return wrap("remove interface "+name, err)
	}
	return nil
}

// setInside configures the container's end: address, route and loopback, as a
// VM's guest does for itself.
func setInside(ns *os.File, ip netip.Prefix, gw netip.Addr, mtu int) error {
	h, err := handleIn(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := loopback(h); err != nil {
		return err
	}
	link, err := h.LinkByName(insideName)
	if err != nil {
		return wrap("look up the container's interface", err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.Addr().AsSlice(), Mask: net.CIDRMask(ip.Bits(), 32)}}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"MTU", func() error { return h.LinkSetMTU(link, mtu) }},
		{"address", func() error { return h.AddrAdd(link, addr) }},
		{"interface", func() error { return h.LinkSetUp(link) }},
		{"default route", func() error {
			return h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw.AsSlice()})
		}},
	} {
		if err := step.do(); err != nil {
			return wrap("set the container's "+step.what, err)
		}
	}
	return nil
}

// SetLink brings the host's interface up, or takes it down: the other end of the
// pair then has no carrier.
func (a *Attachment) SetLink(up bool) error {
	link, err := netlink.LinkByName(a.TapName)
	if err != nil {
		return wrap("look up interface "+a.TapName, err)
	}
	set := netlink.LinkSetDown
	if up {
		set = netlink.LinkSetUp
	}
	if err := set(link); err != nil {
		return wrap("change interface "+a.TapName, err)
	}
	return nil
}

// Loopback brings up the loopback interface of a network namespace, which is
// all that an instance without a network has.
func Loopback(ns *os.File) error {
	h, err := handleIn(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	return loopback(h)
}

func loopback(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return wrap("bring up the container's loopback interface", err)
	}
	return nil
}

// Traffic is what went through the attachment, as the instance sees it, in
// bytes.
func (a *Attachment) Traffic() (rx, tx uint64, err error) {
	if a.ns != nil {
		return a.userTraffic()
	}
	link, err := netlink.LinkByName(a.TapName)
	if err != nil {
		return 0, 0, wrap("look up interface "+a.TapName, err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return 0, 0, nil
	}
	if link.Type() == "macvtap" { // this end is the instance's
		return s.RxBytes, s.TxBytes, nil
	}
	return s.TxBytes, s.RxBytes, nil
}
