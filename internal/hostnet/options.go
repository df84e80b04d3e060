package hostnet

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Limits of what may be asked for.
const (
	minMTU     = 576 // IPv4's smallest datagram every host must take
	maxMTU     = 65521
	maxQueues  = 256 // the tun driver's limit
	maxPublish = 1024
)

// Options say what an instance wants of the host's network.
type Options struct {
	// Root is the absolute path of the state root; files live in Root/net.
	Root string
	// ID is the owner of the lease, unique among instances of Root.
	ID string
	// MAC is the guest's address; nil derives one from ID.
	MAC net.HardwareAddr
	// IP is the wanted address; zero takes the next free one.
	IP netip.Addr
	// DNS are the name servers for the guest; empty takes the host's.
	DNS []netip.Addr
	// Publish lists the ports to publish on the host.
	Publish []Port
	// Bridge is the bridge's name; empty takes DefaultBridge(Root).
	Bridge string
	// Subnet is the bridge's network; zero takes one that overlaps nothing
	// the host reaches. It matters only when the bridge is made.
	Subnet netip.Prefix
	// MTU is that of the guest's link; 0 takes that of the host's default
	// route, at most 1500.
	MTU int
	// Queues is the number of tap queues; 0 means 1.
	Queues int
	// Limit bounds the traffic.
	Limit Limit
	// NetNS is the network namespace of a container: it gets an interface called
	// eth0 with address and route, and there is no tap. The caller keeps it open
	// until Attach returns.
	NetNS *os.File
	// NoNAT leaves nftables and IPv4 forwarding alone: the guest reaches the
	// host and its neighbours only.
	NoNAT bool
	// Alive tells whether the instance called id still has an owner; leases of
	// others are taken back. nil asks whether the lease's interface exists.
	Alive func(id string) bool
	// Keeper is a program and its arguments that calls Keep: it does, as a process of
	// its own, what is to be done after Attach, so that this one needs no rights for
	// that, and it also does when this one is killed. Empty: this process does it. For
	// taps only.
	Keeper []string
	// Apart gives the keeper a mount namespace of its own: this process's loses the
	// host's files later.
	Apart bool
	// Log may be nil.
	Log *slog.Logger

	paths paths
}

// Port publishes a port of the instance on the host.
type Port struct {
	HostIP   netip.Addr // zero: every address
	HostPort uint16     // 0: a free one is chosen
	Port     uint16     // the instance's
	Protocol string     // "tcp" or "udp"
}

func (p Port) String() string {
	host := "*"
	if p.HostIP.IsValid() {
		host = p.HostIP.String()
	}
	return fmt.Sprintf("%s/%s", net.JoinHostPort(host, fmt.Sprint(p.HostPort)), p.Protocol)
}

// paths are the files of the machine this package reads; tests replace them.
type paths struct {
	resolvConf  string // the resolver's configuration
	resolvedRun string // systemd-resolved's list of real servers
	sysctl      string // /proc/sys/net
}

func (p *paths) defaults() {
	for _, f := range []struct {
		dst *string
		def string
	}{
		{&p.resolvConf, "/etc/resolv.conf"},
		{&p.resolvedRun, "/run/systemd/resolve/resolv.conf"},
		{&p.sysctl, "/proc/sys/net"},
	} {
		if *f.dst == "" {
			*f.dst = f.def
		}
	}
}

// fill checks o and fills its defaults in.
func (o *Options) fill() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrOptions}, a...)...)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.paths.defaults()
	if o.Bridge == "" {
		o.Bridge = DefaultBridge(o.Root)
	}
	switch {
	case !filepath.IsAbs(o.Root):
		return bad("state root %q is not an absolute path", o.Root)
	case o.ID == "":
		return bad("the instance has no ID")
	case !validIfName(o.Bridge):
		return bad("%q is no name for a bridge: 1 to 15 letters, digits, '.', '-' and '_'", o.Bridge)
	case o.MTU != 0 && (o.MTU < minMTU || o.MTU > maxMTU):
		return bad("MTU %d is outside %d to %d", o.MTU, minMTU, maxMTU)
	case o.NetNS != nil && o.Queues > 0:
		return bad("a container has no tap, and no queues of one")
	case o.Queues < 0 || o.Queues > maxQueues:
		return bad("%d queues, at most %d are possible", o.Queues, maxQueues)
	case len(o.Publish) > maxPublish:
		return bad("%d published ports, at most %d are possible", len(o.Publish), maxPublish)
	case o.IP.IsValid() && !o.IP.Is4():
		return bad("address %s is not IPv4", o.IP)
	}
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.MAC != nil && !validMAC(o.MAC) {
		return bad("MAC address %s must be 6 bytes, not multicast and not zero", o.MAC)
	}
	if s := o.Subnet; s.IsValid() {
		if !s.Addr().Is4() || s.Bits() < 8 || s.Bits() > 29 || s != s.Masked() {
			return bad("network %s must be IPv4, /8 to /29, with no host bits set", s)
		}
	}
	if err := o.Limit.check(); err != nil {
		return err
	}
	for _, d := range o.DNS {
		if !d.IsValid() || d.IsUnspecified() || d.IsMulticast() {
			return bad("%s is no address of a name server", d)
		}
	}
	return checkPorts(o.Publish)
}

// validIfName says whether the kernel takes s as an interface name and it is
// harmless as part of a path.
func validIfName(s string) bool {
	if s == "" || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == "" &&
		s != "all" && s != "default" // sysctl directories of that name mean every interface
}
