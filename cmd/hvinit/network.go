package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// linkWait bounds how long the network device may take to appear.
const linkWait = 5 * time.Second

// setupNetwork brings up loopback and, when n is not nil, the interface.
func setupNetwork(n *guestproto.Network) error {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bring up loopback: %w", err)
		}
	}
	if n == nil || n.MAC == "" && len(n.Addresses) == 0 {
		return nil // none, or names only
	}
	link, err := findLink(n.MAC)
	if err != nil {
		return err
	}
	name := n.Name
	if name == "" {
		name = "eth0"
	}
	if link.Attrs().Name != name {
		if err := netlink.LinkSetName(link, name); err != nil {
			return fmt.Errorf("rename %s to %s: %w", link.Attrs().Name, name, err)
		}
	}
	if n.MTU != 0 {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", name, n.MTU, err)
		}
	}
	for _, a := range n.Addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return fmt.Errorf("address %q: %w", a, err)
		}
		// The host chose the address: no need to wait for other claims to it.
		addr.Flags = unix.IFA_F_NODAD
		if addr.IP.To4() != nil {
			addr.Flags = 0
		}
		if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s to %s: %w", a, name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	for _, r := range n.Routes {
		if err := addRoute(link, r); err != nil {
			return err
		}
	}
	return nil
}

func addRoute(link netlink.Link, r guestproto.Route) error {
	route := &netlink.Route{LinkIndex: link.Attrs().Index}
	if r.Gateway != "" {
		if route.Gw = net.ParseIP(r.Gateway); route.Gw == nil {
			return fmt.Errorf("gateway %q is not an address", r.Gateway)
		}
	}
	dst := r.Destination
	switch {
	case dst == "" && route.Gw != nil && route.Gw.To4() == nil:
		dst = "::/0"
	case dst == "":
		dst = "0.0.0.0/0"
	}
	_, ipnet, err := net.ParseCIDR(dst)
	if err != nil {
		return fmt.Errorf("route to %q: %w", r.Destination, err)
	}
	route.Dst = ipnet
	if route.Gw == nil {
		route.Scope = netlink.SCOPE_LINK
	}
	if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add route to %s by %q: %w", dst, r.Gateway, err)
	}
	return nil
}

// findLink waits for the interface with the address mac, or, without one, for
// the first Ethernet interface.
func findLink(mac string) (netlink.Link, error) {
	var want net.HardwareAddr
	if mac != "" {
		var err error
		if want, err = net.ParseMAC(mac); err != nil {
			return nil, fmt.Errorf("MAC address %q: %w", mac, err)
		}
	}
	for delay, waited := time.Millisecond, time.Duration(0); ; delay = min(2*delay, 50*time.Millisecond) {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, fmt.Errorf("list network interfaces: %w", err)
		}
		for _, l := range links {
			a := l.Attrs()
			if a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 {
				continue
			}
			if want == nil || bytes.Equal(a.HardwareAddr, want) {
				return l, nil
			}
		}
		if waited >= linkWait {
			return nil, fmt.Errorf("no network interface with the MAC address %q", mac)
		}
		time.Sleep(delay) //nolint:forbidigo // between two looks, until a deadline
		waited += delay
	}
}

// writeNames writes /etc/hostname, hosts and resolv.conf.
func writeNames(t *etcfiles.Tree, hostname string, n *guestproto.Network) error {
	if n == nil {
		n = &guestproto.Network{}
	}
	names := etcfiles.Names{Hostname: hostname, Addresses: n.Addresses, DNS: n.DNS, Search: n.Search, Options: n.Options}
	for _, h := range n.Hosts {
		names.Hosts = append(names.Hosts, etcfiles.Host(h))
	}
	for _, f := range names.Files() {
		if err := t.ReplaceEtc(f.Name, f.Content); err != nil {
			return err
		}
	}
	return nil
}
