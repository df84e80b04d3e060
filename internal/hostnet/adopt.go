package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrAdopt means a network namespace whose network a guest cannot take over.
var ErrAdopt = errors.New("the network namespace cannot be a VM's")

// adoptedTap is the tap's name in a container's network namespace.
const adoptedTap = "hvctl0"

// Adopt gives a guest the network of the current network namespace, which is a
// container's: a tap is joined to its interface so that every frame that comes
// in goes to the guest and every frame of the guest's goes out, and the guest is
// to use the interface's addresses. The interface stays as it is: whoever made
// it finds it so. nil without error means that there is none but loopback.
//
// tun is /dev/net/tun: opened in this network namespace, or with O_PATH.
func Adopt(tun *os.File) (*Attachment, error) {
	link, err := onlyLink()
	if err != nil || link == nil {
		return nil, err
	}
	a := &Attachment{MAC: link.Attrs().HardwareAddr, MTU: link.Attrs().MTU, TapName: adoptedTap}
	if err := a.addressesOf(link); err != nil {
		return nil, err
	}
	fd, err := anew(tun)
	if err != nil {
		return nil, err
	}
	a.Tap, err = makeTap(fd, adoptedTap, 0, false)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w: %s is another VM's already, and a pod has one VM; put what belongs together into one container", ErrAdopt, link.Attrs().Name)
	}
	if err != nil {
		return nil, err
	}
	a.Queues = []*os.File{a.Tap}
	tap, err := netlink.LinkByName(adoptedTap)
	if err == nil {
		err = errors.Join(netlink.LinkSetMTU(tap, a.MTU), netlink.LinkSetUp(tap), netlink.LinkSetUp(link))
	}
	if err == nil {
		err = errors.Join(redirect(link, tap), redirect(tap, link))
	}
	if err != nil {
		closeAll(a.Queues)
		return nil, fmt.Errorf("join a tap to %s: %w", link.Attrs().Name, err)
	}
	return a, nil
}

// onlyLink is the namespace's one interface; nil when it has none.
func onlyLink() (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var found netlink.Link
	for _, l := range links {
		at := l.Attrs()
		switch {
		case at.Flags&unix.IFF_LOOPBACK != 0 || at.Name == adoptedTap || at.EncapType != "ether":
		case found != nil:
			return nil, fmt.Errorf("%w: it has the interfaces %s and %s; a guest has one", ErrAdopt, found.Attrs().Name, at.Name)
		default:
			found = l
		}
	}
	return found, nil
}

// addressesOf notes the addresses and the way out that link has.
func (a *Attachment) addressesOf(link netlink.Link) error {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	if len(addrs) != 1 {
		return fmt.Errorf("%w: %s has %d IPv4 addresses; a guest has one", ErrAdopt, link.Attrs().Name, len(addrs))
	}
	ip, _ := netip.AddrFromSlice(addrs[0].IP.To4())
	bits, _ := addrs[0].Mask.Size()
	a.IP = netip.PrefixFrom(ip, bits)
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Gw != nil && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
			a.Gateway, _ = netip.AddrFromSlice(r.Gw.To4())
		}
	}
	return nil
}

// redirect has everything that comes in at from go out at to (tc-mirred(8)).
func redirect(from, to netlink.Link) error {
	qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	if err := netlink.QdiscDel(qdisc); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove an old ingress queue of %s: %w", from.Attrs().Name, err)
	}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("ingress queue of %s (kernel option NET_SCH_INGRESS): %w", from.Attrs().Name, err)
	}
	action := netlink.NewMirredAction(to.Attrs().Index)
	action.MirredAction = netlink.TCA_EGRESS_REDIR
	err := netlink.FilterAdd(&netlink.MatchAll{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: from.Attrs().Index, Parent: qdisc.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{action},
	})
	if err != nil {
		return fmt.Errorf("redirect what comes in at %s (kernel options NET_CLS_MATCHALL, NET_ACT_MIRRED): %w", from.Attrs().Name, err)
	}
	return nil
}
