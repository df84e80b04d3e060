package hostnet

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// candidates lists networks for a bridge, best first. The default bridge
// starts with 10.77.0.0/16, which no common tool takes by default; other
// bridges start elsewhere in the list so that two made at once seldom meet.
func candidates(bridge string) []netip.Prefix {
	var c []netip.Prefix
	for i := 77; i < 127; i++ {
		if i == 88 || i == 89 { // podman's
			continue
		}
		c = append(c, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16))
	}
	if bridge != defaultBridge {
		h := fnv.New32a()
		h.Write([]byte(bridge))
		n := int(h.Sum32() % uint32(len(c)))
		c = append(c[n:len(c):len(c)], c[:n]...)
	}
	for i := 20; i < 32; i++ { // docker starts at 172.17
		c = append(c, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i)}), 16))
	}
	for i := 200; i < 240; i++ {
		c = append(c, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i)}), 24))
	}
	return c
}

// reached is one network the host reaches.
type reached struct {
	prefix netip.Prefix
	by     string // for messages
}

// reachedBy lists the networks the host reaches by something other than
// bridge (an interface index), and the name servers it asks, which may lie
// behind the default route.
func reachedBy(h *netlink.Handle, bridge int, servers []netip.Addr) ([]reached, error) {
	routes, err := retryDump(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, wrap("list the host's routes", err)
	}
	var rs []reached
	for _, r := range routes {
		p, ok := toPrefix(r.Dst)
		if !ok || p.Bits() == 0 || r.LinkIndex == bridge {
			continue
		}
		rs = append(rs, reached{p, fmt.Sprintf("the route to %s", p)})
	}
	for _, s := range servers {
		if s.Is4() {
			rs = append(rs, reached{netip.PrefixFrom(s, 32), fmt.Sprintf("the name server %s", s)})
		}
	}
	return rs, nil
}

// retryDump repeats a netlink dump that met a concurrent change.
func retryDump[T any](dump func() ([]T, error)) (list []T, err error) {
	for range 16 {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return list, err
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP.To4())
	bits, size := n.Mask.Size()
	if !ok || size != 32 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, bits), true
}

// overlap returns what of rs overlaps p.
func overlap(p netip.Prefix, rs []reached) (reached, bool) {
	for _, r := range rs {
		if p.Overlaps(r.prefix) {
			return r, true
		}
	}
	return reached{}, false
}
