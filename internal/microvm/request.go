package microvm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/seccomp"
	"github.com/hvctl/hvctl/internal/workload"
)

// firstProcess names the workload's first process to the agent.
const firstProcess = "main"

// request is everything the agent is told: the root, the network and the first
// process.
func (v *VM) request() (r guestproto.Run, err error) {
	spec := v.cfg.Spec
	r = guestproto.Run{
		Root: guestproto.Root{
			Device:   guestproto.Device{Serial: rootSerial},
			FSType:   v.cfg.Rootfs.FSType,
			ReadOnly: v.cfg.Rootfs.ReadOnly || spec.Root != nil && spec.Root.Readonly,
		},
		Hostname: spec.Hostname,
		Network:  v.network(),
		Process:  guestProcess(firstProcess, spec.Process),
		PIDs:     v.cfg.Res.PIDs,
		Clock:    time.Now().UnixNano(),
		Entropy:  agent.NewEntropy(),
	}
	if spec.Linux != nil {
		r.Sysctl = spec.Linux.Sysctl
	}
	if v.cfg.VM.Rootfs == workload.RootfsPmem {
		r.Root.Device = guestproto.Device{Pmem: true}
	}
	if v.cfg.Rootfs.Dir != "" {
		r.Root = guestproto.Root{Share: rootSerial, ReadOnly: r.Root.ReadOnly}
	}
	if l := spec.Linux; l != nil {
		r.MaskedPaths, r.ReadonlyPaths = l.MaskedPaths, l.ReadonlyPaths
	}
	if r.Process.Filter, err = filter(spec.Linux); err != nil {
		return r, err
	}
	for i, d := range v.cfg.VM.Disks {
		r.Disks = append(r.Disks, guestproto.Device{Serial: serialOf(i, d)})
	}
	shared := v.shared
	for _, m := range spec.Mounts {
		if isShare(m) { // in the order of the configuration: one may lie in another
			r.Mounts, shared = append(r.Mounts, shared[0]), shared[1:]
			continue
		}
		if slices.Contains(guestMounts, m.Destination) && !ownShm(m) {
			continue // hvinit makes these itself, for the guest it is in
		}
		r.Mounts = append(r.Mounts, guestproto.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source, Options: m.Options})
	}
	return r, nil
}

// filter compiles the system call filter that the guest is to load.
func filter(l *specs.Linux) (*guestproto.Filter, error) {
	if l == nil || l.Seccomp == nil {
		return nil, nil
	}
	p, err := seccomp.Compile(l.Seccomp)
	if err != nil {
		return nil, err
	}
	if p.Notifies() {
		return nil, fmt.Errorf("linux.seccomp: %w: nobody outside can be asked by a VM", workload.ErrUnsupported)
	}
	return &guestproto.Filter{Program: p.Filter, Flags: p.Flags}, nil
}

// guestMounts are what every workload finds mounted.
var guestMounts = []string{"/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}

// ownShm tells whether m is a user's own /dev/shm, with a size of its own say.
// The one that every OCI configuration has is called "shm".
func ownShm(m specs.Mount) bool { return m.Destination == "/dev/shm" && m.Source != "shm" }

// guestProcess puts an OCI process into the agent's terms.
func guestProcess(id string, p *specs.Process) guestproto.Process {
	// The text of a user that only the guest can look up travels in Username.
	return guestproto.Process{ID: id, Spec: *p, User: p.User.Username}
}

// network is the guest's side of the attachment, and the names it knows, which
// a VM without a network may be given too.
func (v *VM) network() *guestproto.Network {
	n, dns := &guestproto.Network{}, v.cfg.Net.DNS
	if v.net != nil {
		n.MAC, n.MTU = v.net.MAC.String(), v.net.MTU
		if v.net.IP.IsValid() {
			n.Addresses = []string{v.net.IP.String()}
		}
		if v.net.Gateway.IsValid() {
			n.Routes = []guestproto.Route{{Gateway: v.net.Gateway.String()}}
		}
		dns = v.net.DNS
	}
	for _, d := range dns {
		n.DNS = append(n.DNS, d.String())
	}
	for _, h := range v.cfg.Net.Hosts { // "name:address"
		if name, addr, ok := strings.Cut(h, ":"); ok {
			n.Hosts = append(n.Hosts, guestproto.Host{Address: addr, Names: []string{name}})
		}
	}
	if v.net == nil && len(n.DNS)+len(n.Hosts) == 0 {
		return nil
	}
	return n
}

// startError gives the agent's refusal to start a program its exit code.
func startError(err error) error {
	if se, ok := errors.AsType[*agent.StartError](err); ok {
		return &workload.StartError{Code: se.ExitCode, Err: errors.New(se.Message)}
	}
	return err
}
