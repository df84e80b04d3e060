package device

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/hvctl/hvctl/internal/bench/device/probe"
)

// tapName is the interface that all targets use, one after another.
const tapName = "hvbench0"

// Network is a tap with the benchmark's own server behind it, on this host. The
// peer has the same tap, served by QEMU itself and by vhost-net where the host
// has it. Close removes it. Needs root.
type Network struct {
	Subject

	link   netlink.Link
	server *server
}

// NewNetwork makes the tap and begins to serve. The subnet is that of RFC 2544 for
// benchmarks.
func NewNetwork() (n *Network, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = tapName
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
	if err := netlink.LinkAdd(tap); err != nil {
		return nil, fmt.Errorf("make the tap %s: %w (run as root)", tapName, err)
	}
	n = &Network{link: tap}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	host := netip.PrefixFrom(probe.NetHost, probe.NetBits)
	addr, err := netlink.ParseAddr(host.String())
	if err != nil {
		return nil, err
	}
	if err := errors.Join(netlink.AddrAdd(tap, addr), netlink.LinkSetUp(tap)); err != nil {
		return nil, fmt.Errorf("give %s the address %s: %w", tapName, host, err)
	}
	if n.server, err = serve(probe.NetHost); err != nil {
		return nil, err
	}
	n.tests = func(list string) int { return len(probe.Chosen(probe.NetTests, list)) }
	n.cmdline = probe.NetKey + "=1"
	n.hvctl = []variant{{"", func(string) []string { return []string{"--network", "tap:" + tapName} }}}
	n.qemu = []variant{qemuTap("")}
	if _, err := os.Stat("/dev/vhost-net"); err == nil {
		n.hvctl = append(n.hvctl, variant{"vhost", func(string) []string { return []string{"--network", "tap:" + tapName + ",vhost=on"} }})
		n.qemu = append(n.qemu, qemuTap("vhost"))
	}
	return n, nil
}

func qemuTap(name string) variant {
	vhost := "off"
	if name != "" {
		vhost = "on"
	}
	return variant{name, func(transport string) []string {
		return []string{
			"-netdev", "tap,id=net,script=no,downscript=no,ifname=" + tapName + ",vhost=" + vhost,
			"-device", deviceModel("net", transport) + ",netdev=net",
		}
	}}
}

// Close ends the server and removes the tap.
func (n *Network) Close() error {
	var err error
	if n.server != nil {
		err = n.server.close()
	}
	return errors.Join(err, netlink.LinkDel(n.link))
}
