package hostnet

import (
	"fmt"
	"net"
	"net/netip"
)

// The address plan of user-mode networks. Each instance is alone in one, so
// that the plan is the same for all. It is QEMU's, which many know.
var (
	UserSubnet  = netip.MustParsePrefix("10.0.2.0/24")
	UserGateway = netip.MustParseAddr("10.0.2.2") // leads to the host's 127.0.0.1
	UserDNS     = netip.MustParseAddr("10.0.2.3") // and the addresses after it: the host's name servers, in order
	UserIP      = netip.MustParseAddr("10.0.2.15")
)

const (
	// UserMTU is the most that an IPv4 datagram and a tap have room for: no
	// wire is near, and large segments are what makes user mode fast.
	UserMTU = 65520
	// MaxUserDNS is how many of the host's name servers are passed on; the C
	// library asks no more.
	MaxUserDNS = 3
)

// UserConfig is what hvctl-net is told, as JSON.
type UserConfig struct {
	MAC       net.HardwareAddr `json:"mac"` // the guest's
	IP        netip.Addr       `json:"ip"`
	ReachHost bool             `json:"reachHost,omitempty"` // the gateway leads to the host
	Publish   []Port           `json:"publish,omitempty"`
}

// UserReady is its one answer.
type UserReady struct {
	Error string `json:"error,omitempty"` // why there is no network
	Ports []Port `json:"ports,omitempty"`
}

// Check refuses what the plan has no room for.
func (c *UserConfig) Check() error {
	switch {
	case !validMAC(c.MAC):
		return fmt.Errorf("%w: MAC address %s must be 6 bytes, not multicast and not zero", ErrOptions, c.MAC)
	case !UserSubnet.Contains(c.IP) || c.IP.As4()[3] <= UserDNS.As4()[3]+MaxUserDNS || c.IP.As4()[3] == 255:
		return fmt.Errorf("%w: address %s: a user-mode network has 10.0.2.7 to 10.0.2.254 for its instance", ErrOptions, c.IP)
	case len(c.Publish) > maxPublish:
		return fmt.Errorf("%w: %d published ports, at most %d are possible", ErrOptions, len(c.Publish), maxPublish)
	}
	return checkPorts(c.Publish)
}

func checkPorts(ports []Port) error {
	for _, p := range ports {
		if p.Protocol != "tcp" && p.Protocol != "udp" {
			return fmt.Errorf("%w: port %d: protocol %q is neither tcp nor udp", ErrOptions, p.Port, p.Protocol)
		}
		if p.Port == 0 {
			return fmt.Errorf("%w: published port %s has no port of the instance", ErrOptions, p)
		}
	}
	return nil
}

// NameServers are those the host asks.
func NameServers() []netip.Addr {
	var p paths
	p.defaults()
	return hostServers(p)
}
