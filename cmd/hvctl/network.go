package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

const networkUsage = "`MODE` none, bridge[:queues=N,vhost=on,mtu=N,rx=SIZE,tx=SIZE], user[:host=on], cni:NAME, " +
	"tap:NAME[,address=IP/LENGTH,gateway=IP,queues=N,vhost=on,mtu=N] or host (containers only)"

// networkMode reads --network.
func networkMode(s string, n *workload.Network) error {
	if s == "" {
		s = workload.DefaultNetwork(os.Geteuid())
	}
	mode, opt, more := strings.Cut(s, ":")
	n.Mode = mode
	switch mode {
	case workload.NetUser:
		switch {
		case !more || opt == "host=off":
		case opt == "host=on":
			n.ReachHost = true
		default:
			return fmt.Errorf("network %q: a user-mode network takes host=on or host=off, not %q", s, opt)
		}
		return nil
	case workload.NetCNI:
		if opt == "" {
			return errors.New("network cni: name one of the host's CNI networks, cni:NAME")
		}
		n.CNI = &workload.CNI{Network: opt}
		return nil
	case workload.NetBridge:
		if more {
			return linkOptions(s, opt, n)
		}
		return nil
	case workload.NetTap:
		name, rest, more := strings.Cut(opt, ",")
		if name == "" || strings.Contains(name, "=") {
			return errors.New("network tap: name a tap or macvtap of the host, tap:NAME[,address=IP/LENGTH][,gateway=IP]")
		}
		n.Tap = &workload.Tap{Interface: name}
		if more {
			return linkOptions(s, rest, n)
		}
		return nil
	case workload.NetNone, workload.NetHost:
		if !more {
			return nil
		}
	}
	return fmt.Errorf("network %q: use none, bridge, user, cni:NAME, tap:NAME or host", s)
}

// linkOptions reads what follows the mode.
func linkOptions(whole, list string, n *workload.Network) error {
	var seen []string
	for kv := range strings.SplitSeq(list, ",") {
		key, value, _ := strings.Cut(kv, "=")
		err := linkOption(key, value, n)
		if err == nil && slices.Contains(seen, key) {
			err = errors.New("twice")
		}
		if err != nil {
			return fmt.Errorf("network %q: %s: %w", whole, kv, err)
		}
		seen = append(seen, key)
	}
	return nil
}

func linkOption(key, value string, n *workload.Network) (err error) {
	bridge := n.Mode == workload.NetBridge
	switch {
	case key == "queues":
		if n.Queues, err = strconv.Atoi(value); err != nil || n.Queues < 1 {
			return errors.New("want the number of queue pairs")
		}
	case key == "mtu":
		if n.MTU, err = strconv.Atoi(value); err != nil || n.MTU < 576 || n.MTU > 65521 {
			return errors.New("want 576 to 65521 bytes")
		}
	case key == "vhost":
		if value != "on" && value != "off" {
			return errors.New("want on or off")
		}
		n.Vhost = value == "on"
	case bridge && key == "rx":
		n.Limit.Rx, err = parseSize(value)
	case bridge && key == "tx":
		n.Limit.Tx, err = parseSize(value)
	case !bridge && key == "address":
		if n.Tap.Address, err = netip.ParsePrefix(value); err != nil {
			return errors.New("want an address with the length of its network, as 192.0.2.10/24")
		}
	case !bridge && key == "gateway":
		if n.Tap.Gateway, err = netip.ParseAddr(value); err != nil {
			return errors.New("want an IP address")
		}
	case bridge:
		return errors.New("options are queues=, vhost=, mtu=, rx= and tx=")
	default:
		return errors.New("options are address=, gateway=, queues=, vhost= and mtu=")
	}
	return err
}

func absolute(flag string, dirs ...string) error {
	for _, d := range dirs {
		if !filepath.IsAbs(d) {
			return fmt.Errorf("%s %q: want absolute paths", flag, d)
		}
	}
	return nil
}

func network(c *cli.Context, cfg *workload.Config) error {
	var errs []error
	n := &cfg.Net
	errs = append(errs, networkMode(c.String("network"), n))
	if n.CNI != nil {
		n.CNI.ConfDir, n.CNI.Plugins = c.String("cni-conf"), filepath.SplitList(c.String("cni-plugins"))
		errs = append(errs, absolute("--cni-conf", n.CNI.ConfDir), absolute("--cni-plugins", n.CNI.Plugins...))
	}
	for _, s := range c.StringSlice("publish") {
		p, err := parsePort(s)
		errs = append(errs, err)
		n.Publish = append(n.Publish, p)
	}
	if len(n.Publish) > 0 && !n.Attached() {
		errs = append(errs, fmt.Errorf("--publish needs --network bridge, user or cni, not %s", n.Mode))
	}
	for _, f := range []string{"ip", "mac-address"} {
		if c.IsSet(f) && !n.Attached() && (f != "mac-address" || n.Tap == nil) {
			errs = append(errs, fmt.Errorf("--%s needs --network bridge, user or cni, not %s", f, n.Mode))
		}
	}
	if s := c.String("mac-address"); s != "" {
		m, err := parseMAC(s)
		errs = append(errs, err)
		n.MAC = m
	}
	if s := c.String("ip"); s != "" {
		a, err := netip.ParseAddr(s)
		if err != nil {
			err = fmt.Errorf("--ip %q: no IP address", s)
		}
		errs = append(errs, err)
		n.IP = a
	}
	for _, s := range c.StringSlice("dns") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			err = fmt.Errorf("--dns %q: no IP address", s)
		}
		errs = append(errs, err)
		n.DNS = append(n.DNS, a)
	}
	for _, s := range c.StringSlice("add-host") {
		h, err := parseHost(s)
		errs = append(errs, err)
		n.Hosts = append(n.Hosts, h)
	}
	return errors.Join(errs...)
}
