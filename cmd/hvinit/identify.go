package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// identify serves Identity, for a machine that was copied while it ran. Entropy
// comes first: two copies must not draw the same numbers for longer than needed.
func (m *manager) identify(i guestproto.Identity) error {
	if err := reseed(i.Entropy); err != nil {
		return fmt.Errorf("seed the random generator: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[""]
	if c == nil {
		return stateErr("run was not called")
	}
	m.warn("set the clock", setClock(i.Clock))
	if err := changeNetwork(m.run.Network, i.Network); err != nil {
		return err
	}
	if i.Hostname != "" {
		if err := unix.Sethostname([]byte(i.Hostname)); err != nil {
			return fmt.Errorf("set the hostname to %q: %w", i.Hostname, err)
		}
	}
	m.run.Hostname, m.run.Network = i.Hostname, i.Network
	if err := writeNames(c.root.tree, i.Hostname, i.Network); err != nil && !errors.Is(err, unix.EROFS) {
		return err
	}
	return nil
}

// changeNetwork gives the interface of old the addresses of n. Connections by the
// old ones break: they are the original's.
func changeNetwork(old, n *guestproto.Network) error {
	if old == nil || old.MAC == "" || n == nil || n.MAC == "" {
		return nil // there was no interface, or there is none any more
	}
	link, err := findLink(old.MAC)
	if err != nil {
		return err
	}
	name := link.Attrs().Name
	// Down: its routes and the neighbours it knows go.
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("take %s down: %w", name, err)
	}
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return fmt.Errorf("MAC address %q: %w", n.MAC, err)
	}
	if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
		return fmt.Errorf("set the MAC address of %s: %w", name, err)
	}
	addrs, err := netlink.AddrList(link, unix.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %v from %s: %w", a.IPNet, name, err)
		}
	}
	return setupNetwork(n)
}
