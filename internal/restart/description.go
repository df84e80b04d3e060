package restart

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// layerVolume is what the offer calls the packed writable layer.
const layerVolume = "layer"

// question is what a source asks of a destination to make its plan. It has the fields of the
// question of a VM that goes on, so that who asks at the wrong door is told.
type question struct {
	Restart bool            `json:"restart"`
	Backend string          `json:"backend,omitempty"` // empty: a container
	Image   string          `json:"image"`             // the file's name
	Network string          `json:"network"`
	Ports   []workload.Port `json:"ports,omitempty"`
	CPUs    int             `json:"cpus,omitempty"`
	Gap     string          `json:"gap,omitempty"`
	Dirs    json.RawMessage `json:"dirs,omitempty"`
}

// maxAsked bounds the ports that a source can ask for.
const maxAsked = 256

// beyond names what a configuration has that an ordinary container has not, such as
// capabilities: what the destination gives nobody from outside.
func beyond(c *workload.Config) (names []string) {
	s := c.Spec
	usual, err := workload.NewProcess(workload.SpecOptions{Args: []string{"/"}})
	if err != nil { // it never does
		return []string{err.Error()}
	}
	if c.Backend == "vm" { // whose capabilities, settings and filters are the guest's own affair
		s = guestsAffair(s)
	}
	if p := s.Process.Capabilities; p != nil {
		for _, set := range [][]string{p.Bounding, p.Effective, p.Permitted, p.Inheritable, p.Ambient} {
			for _, name := range set {
				if !slices.Contains(usual.Capabilities.Bounding, name) && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
	} else {
		names = append(names, "all capabilities")
	}
	if l := s.Linux; l != nil {
		for key := range l.Sysctl {
			names = append(names, "sysctl "+key)
		}
		if l.Seccomp != nil {
			names = append(names, "its own system call filter")
		}
	}
	if c.Net.Mode == workload.NetHost {
		names = append(names, "the host's network")
	}
	if c.Net.ReachHost {
		names = append(names, "the host's loopback")
	}
	if c.Res.Deadline != nil {
		names = append(names, "promised processor time")
	}
	slices.Sort(names)
	if len(names) == 0 && !reflect.DeepEqual(c.Spec, ordinary(c.Spec)) {
		names = []string{"settings that hvctl run does not make"}
	}
	return names
}

// ordinary is what of a specification goes along.
func ordinary(s *specs.Spec) *specs.Spec {
	p := s.Process
	o := &specs.Spec{
		Version: s.Version, Hostname: s.Hostname, Root: s.Root,
		Process: &specs.Process{
			Terminal: p.Terminal, ConsoleSize: p.ConsoleSize, User: p.User, Args: p.Args, Env: p.Env, Cwd: p.Cwd,
			Capabilities: p.Capabilities, Rlimits: p.Rlimits, NoNewPrivileges: p.NoNewPrivileges,
		},
	}
	for _, m := range s.Mounts {
		o.Mounts = append(o.Mounts, specs.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source, Options: m.Options})
	}
	if l := s.Linux; l != nil {
		o.Linux = &specs.Linux{Sysctl: l.Sysctl, Seccomp: l.Seccomp, Devices: l.Devices}
	}
	return o
}

// tmpfsOptions are those that a tmpfs may come with.
var tmpfsOptions = []string{"size", "mode", "uid", "gid", "nr_inodes", "ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime", "strictatime"}

// admit judges the configuration that another host offers, and returns the one that the
// instance has here: own's, with what may come. Whoever may send containers here may run
// programs in them as anybody who runs an image by its name; nothing of the host's is his choice.
func admit(own *workload.Config, d workload.Description, p plan.Plan, images string) (*workload.Config, error) {
	c := d.Config
	if c.Backend != "container" && c.Backend != "vm" {
		return nil, fmt.Errorf("%w: a %q; containers and VMs are started afresh", workload.ErrUnsupported, c.Backend)
	}
	if more := beyond(c); len(more) > 0 {
		return nil, fmt.Errorf("%w: it has %q, which nobody from outside is given", workload.ErrUnsupported, more)
	}
	for _, m := range c.Spec.Mounts {
		if m.Type != "tmpfs" {
			return nil, fmt.Errorf("%w: %s is %s of the source's host", workload.ErrUnsupported, m.Destination, m.Source)
		}
		for _, o := range m.Options { // "bind" would make it a directory of ours
			if key, _, _ := strings.Cut(o, "="); !slices.Contains(tmpfsOptions, key) {
				return nil, fmt.Errorf("%w: %s has the mount option %q", workload.ErrUnsupported, m.Destination, o)
			}
		}
	}
	if l := c.Spec.Linux; l != nil && len(l.Devices) > 0 {
		return nil, fmt.Errorf("%w: %s is a device of the source's host", workload.ErrUnsupported, l.Devices[0].Path)
	}
	name := filepath.Base(c.Rootfs.ImagePath)
	if c.Rootfs.ImagePath == "" || name == "." || name == ".." || name == "/" {
		return nil, fmt.Errorf("root file system %q is no file's name", c.Rootfs.ImagePath)
	}
	n := *own
	n.Backend = c.Backend
	if n.Backend == "vm" {
		var err error
		if n.VM, err = guest(c.VM); err != nil {
			return nil, err
		}
	}
	n.Spec = ordinary(c.Spec)
	if n.Spec.Hostname == short(c.ID) {
		n.Spec.Hostname = short(own.ID)
	}
	n.Image, n.Labels, n.OpenStdin, n.StopSignal = c.Image, c.Labels, c.OpenStdin, c.StopSignal
	if n.StopSignal != "" {
		if _, err := workload.ParseSignal(n.StopSignal); err != nil {
			return nil, err
		}
	}
	if s := c.StopTimeoutSeconds; s >= 0 {
		n.StopTimeoutSeconds = s
	}
	n.Rootfs = workload.Rootfs{ImagePath: filepath.Join(images, name), FSType: c.Rootfs.FSType, ReadOnly: c.Rootfs.ReadOnly}
	n.Res = workload.Resources{CPUs: c.Res.CPUs, MemoryBytes: c.Res.MemoryBytes, PIDs: c.Res.PIDs, CPUWeight: c.Res.CPUWeight}
	if err := network(&n, c.Net, p); err != nil {
		return nil, err
	}
	now, err := workload.MarkFile(n.Rootfs.ImagePath)
	if err == nil && now != d.Rootfs {
		err = errors.New("it is another one here")
	}
	if err != nil {
		return nil, fmt.Errorf("its image, %s: %w", c.Image.Ref, err)
	}
	return &n, nil
}

// network gives n the network that came, as far as the plan lets it and the user of this
// side has not chosen his own ports. Addresses are new.
func network(n *workload.Config, came workload.Network, p plan.Plan) error {
	ports := n.Net.Publish
	n.Net = workload.Network{Mode: came.Mode, DNS: came.DNS, Hosts: came.Hosts, Publish: ports}
	for _, r := range p.Rows {
		if r.Kind == plan.Network && r.Arg != "" {
			n.Net.Mode = r.Arg
		}
	}
	switch m := n.Net.Mode; m {
	case workload.NetNone, workload.NetUser:
	case workload.NetBridge:
		n.Net.MTU, n.Net.Limit = came.MTU, came.Limit
	default:
		return fmt.Errorf("%w: network %q; only none, bridge and user are received", workload.ErrUnsupported, m)
	}
	if n.Backend == "vm" {
		_, err := os.Stat("/dev/vhost-net") // who serves the queues is this host's affair
		n.Net.Queues, n.Net.Vhost = came.Queues, came.Vhost && err == nil
	}
	for _, port := range came.Publish {
		if ports == nil && p.Action(plan.Port, portName(port)) != plan.Drop {
			n.Net.Publish = append(n.Net.Publish, port)
		}
	}
	for _, port := range n.Net.Publish {
		if port.Protocol != "tcp" && port.Protocol != "udp" || port.Port == 0 {
			return fmt.Errorf("port %v is none", port)
		}
	}
	return nil
}

// offered is what the source says of an instance: nothing that only its host has.
func offered(c *workload.Config) *workload.Config {
	o := *c
	o.DataDir, o.Rootfs.Dir, o.Rootfs.Layer, o.VM = "", "", "", machine(c)
	o.Net.MAC, o.Net.IP = "", netip.Addr{}
	o.Res.BlockIO, o.Res.CgroupParent = nil, ""
	return &o
}

// short is an ID as hostnames have it.
func short(id string) string { return id[:min(12, len(id))] }
