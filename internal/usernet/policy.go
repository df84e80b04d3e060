package usernet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/hostnet"
)

// errRefused means that the instance may not reach an address.
var errRefused = errors.New("not reachable by the instance")

// domainPort is where name servers listen.
const domainPort = 53

// policy says what the instance reaches.
type policy struct {
	host    bool                // the gateway leads to the host
	servers func() []netip.Addr // the host's name servers now
	// beyond says whether the host's way to an address leads out of the host.
	beyond func(netip.Addr) bool
}

// target is the host's address for what the instance calls to.
func (p *policy) target(to netip.AddrPort) (netip.AddrPort, error) {
	a := to.Addr()
	if a == hostnet.UserGateway {
		if !p.host {
			return to, fmt.Errorf("%w: the host", errRefused)
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to.Port()), nil
	}
	if i, ok := nameServer(a); ok {
		servers := p.servers()
		if to.Port() != domainPort || len(servers) == 0 {
			return to, fmt.Errorf("%w: %s serves names only", errRefused, a)
		}
		return netip.AddrPortFrom(servers[min(i, len(servers)-1)], domainPort), nil
	}
	if !worldly(a) || !p.beyond(a) {
		return to, fmt.Errorf("%w: %s", errRefused, a)
	}
	return to, nil
}

// reserved are networks whose addresses the kernel gives a meaning on this
// host, or that no router passes on (RFC 1122 3.2.1.3, RFC 3927, RFC 1112).
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), // Linux connects 0.0.0.0 to the host itself
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), // metadata services of clouds are here
	netip.MustParsePrefix("224.0.0.0/3"),    // multicast, and class E with the broadcast address
}

// worldly says whether a can be somebody beyond the host at all.
func worldly(a netip.Addr) bool {
	if !a.Is4() || hostnet.UserSubnet.Contains(a) {
		return false
	}
	for _, r := range reserved {
		if r.Contains(a) {
			return false
		}
	}
	return true
}

// routes asks the kernel about addresses: every one that it takes for its own,
// whichever interface or route says so, is the host's.
type routes struct{ h *netlink.Handle }

func newRoutes() (*routes, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &routes{h}, nil
}

func (r *routes) beyond(a netip.Addr) bool {
	found, err := r.h.RouteGet(a.AsSlice())
	return err == nil && len(found) == 1 && found[0].Type == unix.RTN_UNICAST
}
