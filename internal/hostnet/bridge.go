package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// defaultMTU is Ethernet's.
const defaultMTU = 1500

// bridge is the host's side of the network of one state root.
type bridge struct {
	h      *netlink.Handle // in the calling thread's network namespace
	o      *Options
	link   netlink.Link
	subnet netip.Prefix
}

// tag is the alias of a bridge made for root.
func tag(root string) string { return "hvctl " + filepath.Clean(root) }

// ours says whether link was made here and may be removed. An alias is set
// right after the bridge is made; a bridge of a default name without one was
// made by a process that was killed in between.
func (b *bridge) ours() bool {
	a := b.link.Attrs()
	return a.Alias == tag(b.o.Root) || (a.Alias == "" && a.Name == DefaultBridge(b.o.Root))
}

// find looks the bridge up; b.link stays nil when there is none.
func (b *bridge) find() error {
	link, err := b.h.LinkByName(b.o.Bridge)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return nil
	case err != nil:
		return wrap("look up bridge "+b.o.Bridge, err)
	case link.Type() != "bridge":
		return fmt.Errorf("%w: %s is a %s, not a bridge; choose another bridge name", ErrInterface, b.o.Bridge, link.Type())
	}
	if a := link.Attrs().Alias; strings.HasPrefix(a, "hvctl ") && a != tag(b.o.Root) {
		return fmt.Errorf("%w: bridge %s belongs to the state root %s; choose another bridge name",
			ErrInterface, b.o.Bridge, strings.TrimPrefix(a, "hvctl "))
	}
	b.link = link
	return nil
}

// ensure makes the bridge, its address and its NAT what they must be. want is
// the network of the living leases, zero when there are none. On error the
// caller removes what was made.
func (b *bridge) ensure(want netip.Prefix) error {
	if err := b.find(); err != nil {
		return err
	}
	if b.link == nil {
		if err := b.create(); err != nil {
			return err
		}
	}
	subnet, err := b.ensureAddress(want)
	if err != nil {
		return err
	}
	b.subnet = subnet
	if b.link.Attrs().Flags&net.FlagUp == 0 {
		if err := b.h.LinkSetUp(b.link); err != nil {
			return wrap("bring up bridge "+b.o.Bridge, err)
		}
	}
	if b.o.NoNAT {
		return nil
	}
	if err := b.sysctl("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if ok, err := hasNAT(b.o.Bridge); err != nil || ok {
		return err
	}
	return setNAT(b.o.Bridge, subnet)
}

func (b *bridge) create() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.o.Bridge
	attrs.MTU = b.uplinkMTU()
	// An address of its own: otherwise the bridge takes that of some port and
	// changes it when the port leaves, under the guests' ARP caches.
	attrs.HardwareAddr = DeriveMAC("bridge " + b.o.Bridge)
	off := false // no querier: snooping would only lose multicast
	if err := b.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}); err != nil {
		return wrap("make bridge "+b.o.Bridge, err)
	}
	if err := b.find(); err != nil {
		return err
	}
	if b.link == nil {
		return fmt.Errorf("%w: bridge %s vanished while it was made", ErrInterface, b.o.Bridge)
	}
	if err := b.h.LinkSetAlias(b.link, tag(b.o.Root)); err != nil {
		return wrap("tag bridge "+b.o.Bridge, err)
	}
	b.link.Attrs().Alias = tag(b.o.Root)
	return b.noIPv6(b.o.Bridge)
}

// ensureAddress gives the bridge its gateway address. A bridge that has an
// IPv4 address keeps it.
func (b *bridge) ensureAddress(want netip.Prefix) (netip.Prefix, error) {
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return b.h.AddrList(b.link, netlink.FAMILY_V4) })
	if err != nil {
		return netip.Prefix{}, wrap("list the addresses of bridge "+b.o.Bridge, err)
	}
	for _, a := range addrs {
		p, ok := toPrefix(a.IPNet)
		if !ok || p.Bits() > 29 || p.Bits() < 8 {
			continue
		}
		switch {
		case want.IsValid() && p.Masked() != want:
			continue
		case b.o.Subnet.IsValid() && p.Masked() != b.o.Subnet:
			return netip.Prefix{}, fmt.Errorf("%w: bridge %s has the network %s already, not %s; stop its instances first or choose another bridge name",
				ErrSubnet, b.o.Bridge, p.Masked(), b.o.Subnet)
		case p.Addr() != gateway(p):
			return netip.Prefix{}, fmt.Errorf("%w: bridge %s has the address %s, the first one of its network (%s) is needed",
				ErrInterface, b.o.Bridge, p, gateway(p))
		}
		return p.Masked(), nil
	}
	cand := candidates(b.o.Bridge)
	switch {
	case want.IsValid():
		cand = []netip.Prefix{want} // it has living leases
	case b.o.Subnet.IsValid():
		cand = []netip.Prefix{b.o.Subnet}
	}
	return b.chooseSubnet(cand)
}

// chooseSubnet adds the gateway of the first candidate that overlaps nothing.
func (b *bridge) chooseSubnet(cand []netip.Prefix) (netip.Prefix, error) {
	servers := hostServers(b.o.paths)
	var why reached
	for _, p := range cand {
		// Look again before and after each try: another root may take a
		// network at the same time, and then the later one moves on.
		others, err := reachedBy(b.h, b.link.Attrs().Index, servers)
		if err != nil {
			return netip.Prefix{}, err
		}
		if r, hit := overlap(p, others); hit {
			why = r
			continue
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: gateway(p).AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}}
		if err := b.h.AddrReplace(b.link, addr); err != nil {
			return netip.Prefix{}, wrap(fmt.Sprintf("give bridge %s the address %s", b.o.Bridge, gateway(p)), err)
		}
		if others, err = reachedBy(b.h, b.link.Attrs().Index, servers); err != nil {
			return netip.Prefix{}, err
		}
		r, hit := overlap(p, others)
		if !hit {
			return p, nil
		}
		why = r
		if err := b.h.AddrDel(b.link, addr); err != nil {
			return netip.Prefix{}, wrap("take an address off bridge "+b.o.Bridge, err)
		}
	}
	if len(cand) == 1 {
		return netip.Prefix{}, fmt.Errorf("%w: %s overlaps %s; choose another network", ErrSubnet, cand[0], why.by)
	}
	return netip.Prefix{}, fmt.Errorf("%w: all %d candidates overlap what the host reaches, the last one %s; name a free network", ErrSubnet, len(cand), why.by)
}

// uplinkMTU is the MTU of the interface of the default route, at most
// Ethernet's; a larger one on the bridge would only make packets that are
// dropped on the way out.
func (b *bridge) uplinkMTU() int {
	routes, err := retryDump(func() ([]netlink.Route, error) { return b.h.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return defaultMTU
	}
	for _, r := range routes {
		if p, ok := toPrefix(r.Dst); r.Dst != nil && (!ok || p.Bits() != 0) {
			continue
		}
		if link, err := b.h.LinkByIndex(r.LinkIndex); err == nil {
			return max(min(link.Attrs().MTU, defaultMTU), minMTU)
		}
	}
	return defaultMTU
}

// plug puts a link that was just made on the bridge and brings it up.
func (b *bridge) plug(name string) (mtu int, err error) {
	link, err := b.h.LinkByName(name)
	if err != nil {
		return 0, wrap("look up interface "+name, err)
	}
	if err := b.noIPv6(name); err != nil {
		return 0, err
	}
	mtu = b.o.MTU
	if mtu == 0 {
		mtu = b.link.Attrs().MTU
	}
	if mtu > b.link.Attrs().MTU {
		if err := b.h.LinkSetMTU(b.link, mtu); err != nil {
			return 0, wrap(fmt.Sprintf("give bridge %s the MTU %d", b.o.Bridge, mtu), err)
		}
	}
	if link.Attrs().MTU != mtu {
		if err := b.h.LinkSetMTU(link, mtu); err != nil {
			return 0, wrap(fmt.Sprintf("give interface %s the MTU %d", name, mtu), err)
		}
	}
	if err := b.o.Limit.apply(b.h, link); err != nil {
		return 0, err
	}
	if err := b.h.LinkSetMaster(link, b.link); err != nil {
		return 0, wrap(fmt.Sprintf("put interface %s on bridge %s", name, b.o.Bridge), err)
	}
	if err := b.h.LinkSetUp(link); err != nil {
		return 0, wrap("bring up interface "+name, err)
	}
	return mtu, nil
}

// remove takes the NAT table and, when it was made here, the bridge away. While
// somebody else's interface is on the bridge both stay; own does not count,
// it may still be on its way out.
func (b *bridge) remove(own string) error {
	if err := b.find(); err != nil {
		return err
	}
	if b.link != nil {
		links, err := retryDump(b.h.LinkList)
		if err != nil {
			return wrap("list the interfaces of bridge "+b.o.Bridge, err)
		}
		for _, l := range links {
			if l.Attrs().MasterIndex == b.link.Attrs().Index && l.Attrs().Name != own {
				b.o.Log.Info("bridge kept: it has an interface no instance accounts for", "bridge", b.o.Bridge, "interface", l.Attrs().Name)
				return nil
			}
		}
	}
	var errs []error
	if !b.o.NoNAT {
		errs = append(errs, delNAT(b.o.Bridge))
	}
	if b.link != nil && b.ours() {
		if err := b.h.LinkDel(b.link); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, wrap("remove bridge "+b.o.Bridge, err))
		}
	}
	return errors.Join(errs...)
}

// noIPv6 keeps the host from speaking, and worse, listening to IPv6 on an
// interface: router advertisements of a guest must not reach it.
func (b *bridge) noIPv6(name string) error {
	err := b.sysctl("ipv6/conf/"+name+"/disable_ipv6", "1")
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

// sysctl sets a value of /proc/sys/net unless it is set already.
func (b *bridge) sysctl(name, value string) error {
	path := filepath.Join(b.o.paths.sysctl, name)
	if old, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return wrap("set net."+strings.ReplaceAll(name, "/", "."), err)
	}
	return nil
}
