package nscontainer

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/workload"
)

// attachNetwork gives the container, whose first process waits, its place on
// the host's network.
func (c *Container) attachNetwork(ctx context.Context, pid int) error {
	n := c.cfg.Net
	if n.Mode == workload.NetHost {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if n.Mode == workload.NetNone {
		return hostnet.Loopback(ns)
	}
	var mac net.HardwareAddr
	if n.MAC != "" {
		if mac, err = net.ParseMAC(n.MAC); err != nil {
			return err
		}
	}
	var ports []hostnet.Port
	for _, p := range n.Publish {
		ports = append(ports, hostnet.Port(p))
	}
	if n.Mode == workload.NetUser {
		c.net, err = hostnet.AttachUser(ctx, hostnet.UserOptions{ID: c.cfg.ID, MAC: mac, IP: n.IP, DNS: n.DNS, Publish: ports, ReachHost: n.ReachHost, NetNS: ns, Started: c.confineNetwork, Log: c.log})
		return err
	}
	if n.Mode == workload.NetCNI {
		c.net, err = hostnet.AttachCNI(ctx, hostnet.CNIOptions{
			Root: filepath.Dir(c.dir), ID: c.cfg.ID, Network: n.CNI.Network, ConfDir: n.CNI.ConfDir, Plugins: n.CNI.Plugins,
			MAC: mac, IP: n.IP, DNS: n.DNS, Publish: ports, NetNS: ns, Log: c.log,
		})
		return err
	}
	c.net, err = hostnet.Attach(ctx, hostnet.Options{
		Root: filepath.Dir(c.dir), ID: c.cfg.ID, MAC: mac, IP: n.IP, DNS: n.DNS, Publish: ports, NetNS: ns,
		MTU: n.MTU, Limit: hostnet.Limit(n.Limit), Log: c.log,
	})
	return err
}

// NetworkStatus reports the container's address and the ports published for it.
func (c *Container) NetworkStatus() (ip string, published []workload.Port) {
	if c.net == nil {
		return "", nil
	}
	for _, p := range c.net.Ports {
		published = append(published, workload.Port(p))
	}
	return c.net.IP.Addr().String(), published
}

// maxHostFile bounds them.
const maxHostFile = 1 << 20

// writeNames writes /etc/hostname, hosts and resolv.conf.
func (c *Container) writeNames(tree *etcfiles.Tree) error {
	n := etcfiles.Names{Hostname: c.cfg.Spec.Hostname}
	dns := c.cfg.Net.DNS
	if c.net != nil {
		n.Addresses, dns = []string{c.net.IP.String()}, c.net.DNS
	}
	for _, d := range dns {
		n.DNS = append(n.DNS, d.String())
	}
	for _, h := range c.cfg.Net.Hosts { // "name:address"
		if name, addr, ok := strings.Cut(h, ":"); ok {
			n.Hosts = append(n.Hosts, etcfiles.Host{Address: addr, Names: []string{name}})
		}
	}
	for _, f := range n.Files() {
		if c.cfg.Net.Mode == workload.NetHost && f.Name == "hosts" {
			f.Content = hostFile(f.Name) + f.Content
		}
		if err := tree.ReplaceEtc(f.Name, f.Content); err != nil {
			return err
		}
	}
	if c.cfg.Net.Mode == workload.NetHost && len(n.DNS) == 0 {
		return tree.ReplaceEtc("resolv.conf", hostFile("resolv.conf"))
	}
	return nil
}

// hostFile is a file of the host's /etc; empty when it cannot be had.
func hostFile(name string) string {
	tree, err := etcfiles.OpenTree("/etc")
	if err != nil {
		return ""
	}
	defer tree.Close()
	b, err := tree.ReadFile(name, maxHostFile)
	if err != nil {
		return ""
	}
	return string(b)
}
