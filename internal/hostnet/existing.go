package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TapOptions name an interface that somebody else has made for the guest.
type TapOptions struct {
	Interface string // a persistent tap, or a macvtap
	// Address is the guest's, with the length of its network; zero tells the guest
	// of none.
	Address netip.Prefix
	Gateway netip.Addr // zero: no default route
	DNS     []netip.Addr
	MAC     net.HardwareAddr // nil: a macvtap's own, or derived from ID
	MTU     int              // 0: the interface's
	Queues  int              // 0: one
	ID      string           // the instance's
	Log     *slog.Logger     // may be nil
}

// AttachTap opens an interface that is there: a tap (`ip tuntap add mode tap`) or
// a macvtap (`ip link add link eth0 type macvtap`). It is used as it is found, and
// Close leaves it so. Its maker decides who may use it, so no privileges are
// needed. Errors wrap ErrOptions or ErrInterface.
func AttachTap(o TapOptions) (*Attachment, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(o.Interface)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; make one with `ip tuntap add dev %[2]s mode tap`", ErrInterface, o.Interface, err)
	}
	at := link.Attrs()
	a := &Attachment{MAC: o.MAC, IP: o.Address, Gateway: o.Gateway, DNS: o.DNS, MTU: o.MTU, TapName: o.Interface}
	if a.MTU == 0 {
		a.MTU = at.MTU
	}
	if a.MTU > at.MTU {
		return nil, fmt.Errorf("%w: MTU %d is more than the %d of %s", ErrOptions, a.MTU, at.MTU, o.Interface)
	}
	node, multi := tunDevice, false
	switch l := link.(type) {
	case *netlink.Tuntap:
		if l.Mode != netlink.TUNTAP_MODE_TAP {
			return nil, fmt.Errorf("%w: %s is a tun, which carries no Ethernet frames; make a tap", ErrInterface, o.Interface)
		}
		multi = l.Flags&unix.IFF_MULTI_QUEUE != 0
		if o.Queues > 1 && !multi {
			return nil, fmt.Errorf("%w: %s has one queue, not %d; make it with `ip tuntap add … multi_queue`", ErrInterface, o.Interface, o.Queues)
		}
	case *netlink.Macvtap:
		node, multi = fmt.Sprintf("/dev/tap%d", at.Index), true
		if a.MAC != nil && a.MAC.String() != at.HardwareAddr.String() {
			return nil, fmt.Errorf("%w: MAC address %s: frames for others than %s do not reach %s", ErrOptions, a.MAC, at.HardwareAddr, o.Interface)
		}
		a.MAC = at.HardwareAddr
	default:
		return nil, fmt.Errorf("%w: %s is a %s, no tap and no macvtap", ErrInterface, o.Interface, link.Type())
	}
	if at.Flags&net.FlagUp == 0 {
		o.Log.Warn("the interface is down: `ip link set "+o.Interface+" up`", "interface", o.Interface)
	}
	if a.MAC == nil {
		a.MAC = DeriveMAC(o.ID)
	}
	for range max(o.Queues, 1) {
		f, err := joinTap(node, o.Interface, multi)
		if err != nil {
			closeAll(a.Queues)
			return nil, err
		}
		a.Queues = append(a.Queues, f)
	}
	a.Tap = a.Queues[0]
	return a, nil
}

func (o *TapOptions) check() error {
	switch {
	case !validIfName(o.Interface):
		return fmt.Errorf("%w: %q is no name of an interface", ErrOptions, o.Interface)
	case o.Queues < 0 || o.Queues > maxQueues:
		return fmt.Errorf("%w: %d queues, at most %d are possible", ErrOptions, o.Queues, maxQueues)
	case o.MTU != 0 && (o.MTU < minMTU || o.MTU > maxMTU):
		return fmt.Errorf("%w: MTU %d is outside %d to %d", ErrOptions, o.MTU, minMTU, maxMTU)
	case o.MAC != nil && !validMAC(o.MAC):
		return fmt.Errorf("%w: MAC address %s must be 6 bytes, not multicast and not zero", ErrOptions, o.MAC)
	case o.Gateway.IsValid() && !o.Address.Contains(o.Gateway):
		return fmt.Errorf("%w: gateway %s is not in the guest's network %s", ErrOptions, o.Gateway, o.Address)
	}
	return nil
}

// joinTap opens a queue of an interface that exists.
func joinTap(node, name string, multi bool) (*os.File, error) {
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: open %s: %w", ErrInterface, name, node, err)
	}
	f, err := setTap(fd, name, multi, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: %s is in use by another program", ErrInterface, name)
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("%w: %s belongs to another user; make it with `ip tuntap add … user NAME`", ErrInterface, name)
	}
	return f, err
}
