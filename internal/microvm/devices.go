package microvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"

	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/balloon"
	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/hvctl/hvctl/virtio/fs"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
	virtionet "github.com/hvctl/hvctl/virtio/net"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// Serial numbers by which the guest finds its disks.
const (
	rootSerial = "root"
	diskSerial = "disk%d" // by position in Config.VM.Disks
	pmemID     = "pmem%d" // by position in Config.VM.Pmem; only we call it that
)

// vcpus is how many virtual CPUs a limit on CPU time needs.
func vcpus(cpus float64) int { return max(1, int(math.Ceil(cpus))) }

// maxVCPUs is how many the guest may be given.
func maxVCPUs(c *workload.Config) int { return max(vcpus(c.Res.CPUs), c.VM.MaxCPUs) }

// attachNetwork gives the VM its place on the host's network.
func (v *VM) attachNetwork(ctx context.Context) (err error) {
	n := v.cfg.Net
	if v.net != nil || n.Mode == workload.NetNone || n.Mode == "" {
		return nil
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
	switch n.Mode {
	case workload.NetBridge:
		o := v.bridgeOptions()
		o.MAC, o.Publish, o.MTU, o.Queues, o.Limit = mac, ports, n.MTU, n.Queues, hostnet.Limit(n.Limit)
		v.net, err = hostnet.Attach(ctx, o)
	case workload.NetUser:
		v.net, err = hostnet.AttachUser(ctx, hostnet.UserOptions{ID: v.cfg.ID, MAC: mac, IP: n.IP, DNS: n.DNS, Publish: ports, ReachHost: n.ReachHost, Apart: apart(), Log: v.log})
	case workload.NetCNI:
		if n.CNI == nil {
			return errors.New("network cni: the configuration names none")
		}
		v.net, err = hostnet.AttachCNI(ctx, hostnet.CNIOptions{
			Root: v.root(), ID: v.cfg.ID, Network: n.CNI.Network, ConfDir: n.CNI.ConfDir, Plugins: n.CNI.Plugins,
			MAC: mac, IP: n.IP, DNS: n.DNS, Publish: ports, Keeper: keeper(), Apart: apart(), Log: v.log,
		})
	case workload.NetTap:
		if n.Tap == nil {
			return errors.New("network tap: the configuration names no interface")
		}
		v.net, err = hostnet.AttachTap(hostnet.TapOptions{
			Interface: n.Tap.Interface, Address: n.Tap.Address, Gateway: n.Tap.Gateway, DNS: n.DNS, MAC: mac, MTU: n.MTU, Queues: n.Queues,
			ID: v.cfg.ID, Log: v.log,
		})
	default:
		err = fmt.Errorf("%w: network %q for a VM; there are none, bridge, user, cni and tap", workload.ErrUnsupported, n.Mode)
	}
	return err
}

// bridgeOptions are those of an attachment to the bridge that every owner of the
// VM has.
func (v *VM) bridgeOptions() hostnet.Options {
	return hostnet.Options{Root: v.root(), ID: v.cfg.ID, IP: v.cfg.Net.IP, DNS: v.cfg.Net.DNS, Keeper: keeper(), Apart: apart(), Log: v.log}
}

// apart tells whether this process will lose the host's files (Confine).
func apart() bool { return os.Getenv(instance.MountsEnv) != "" }

// keeper is the command by which this program keeps the network of a VM, so that
// the VM's own process has no rights to it.
func keeper() []string {
	self, err := os.Executable()
	if err != nil {
		self = "/proc/self/exe"
	}
	return []string{self, hostnet.VerbKeep}
}

// devices lists the VM's devices in the order the guest discovers them.
func (v *VM) devices() ([]machine.Device, error) {
	socket, err := v.socketDevice()
	if err != nil {
		return nil, err
	}
	devs := []machine.Device{socket}
	switch {
	case v.cfg.VM.Raw:
		for i, p := range v.cfg.VM.Pmem {
			devs = append(devs, pmem(fmt.Sprintf(pmemID, i), p))
		}
	case v.pod:
		dev, err := v.podDevice()
		if err != nil {
			return nil, err
		}
		devs = append(devs, machine.Device{Device: dev, Args: virtio.Args{ID: rootSerial}})
	case v.cfg.Rootfs.Dir != "":
		dev, err := fs.New(fs.Options{Tag: rootSerial, Dir: hostdir.Options{Path: v.cfg.Rootfs.Dir}})
		if err != nil {
			return nil, err
		}
		devs = append(devs, machine.Device{Device: dev, Args: virtio.Args{ID: rootSerial}})
	case v.cfg.VM.Rootfs == workload.RootfsPmem:
		devs = append(devs, pmem(rootSerial, workload.Pmem{Path: v.cfg.Rootfs.ImagePath, ReadOnly: true}))
	default:
		devs = append(devs, disk(rootSerial, workload.Disk{Path: v.cfg.Rootfs.ImagePath, ReadOnly: true, Engine: string(blk.EnginePlain)}))
	}
	for i, d := range v.cfg.VM.Disks {
		devs = append(devs, disk(serialOf(i, d), d))
	}
	if v.net != nil {
		if v.cfg.Net.Vhost {
			if err := v.unwatchNetwork(); err != nil {
				return nil, err
			}
		}
		frames := map[string]*os.File{}
		for i, q := range v.net.Queues {
			frames[virtionet.QueueFile(i)] = q
		}
		if v.net.Socket != nil {
			frames = map[string]*os.File{"socket": v.net.Socket}
		}
		values := map[string]string{"mac": v.net.MAC.String(), "mtu": fmt.Sprint(v.net.MTU)}
		if v.cfg.Net.Vhost {
			values["vhost"] = "on"
		}
		devs = append(devs, machine.Device{Kind: "net", Args: virtio.Args{ID: netID, Values: values, Files: frames}})
	}
	shares, err := v.shareDevices()
	if err != nil {
		return nil, err
	}
	devs = append(devs, shares...)
	if b := v.cfg.VM.Balloon; b != nil {
		v.balloon = balloon.New(balloon.Options{Target: b.TargetBytes, NoOOM: b.NoOOM, NoReporting: b.NoReporting, Keep: v.filling})
		devs = append(devs, machine.Device{Device: v.balloon, Args: virtio.Args{ID: "balloon"}})
	}
	return append(devs, machine.Device{Kind: "rng", Args: virtio.Args{ID: "rng0"}}), nil
}

// socketDevice is the one the agent is reached by, or what a raw VM was given.
func (v *VM) socketDevice() (machine.Device, error) {
	args := virtio.Args{ID: "vsock"}
	if s := v.cfg.VM.Vsock; v.cfg.VM.Raw && s != nil {
		args.Values = map[string]string{"cid": fmt.Sprint(s.CID), "backend": cmp.Or(s.Backend, workload.VsockUser)}
		if s.Path != "" {
			args.Values["path"] = s.Path
		}
		return machine.Device{Kind: vsock.Kind.Name, Args: args}, nil
	}
	var err error
	v.vsock, err = vsock.New(vsock.Options{CID: guestCID, Log: v.log})
	return machine.Device{Device: v.vsock, Args: args}, err
}

// serialOf is the serial number by which the guest finds the i-th further disk.
func serialOf(i int, d workload.Disk) string {
	if d.Serial != "" {
		return d.Serial
	}
	return fmt.Sprintf(diskSerial, i)
}

func disk(serial string, d workload.Disk) machine.Device {
	values := map[string]string{"path": d.Path, "serial": serial}
	if d.ReadOnly {
		values["ro"] = "on"
	}
	for key, v := range map[string]string{"format": d.Format, "overlay": d.Overlay, "cache": d.Cache, "engine": d.Engine} {
		if v != "" {
			values[key] = v
		}
	}
	for key, n := range map[string]uint64{"queues": uint64(d.Queues), "iops": d.IOPS, "bps": d.BPS} {
		if n != 0 {
			values[key] = fmt.Sprint(n)
		}
	}
	return machine.Device{Kind: "blk", Args: virtio.Args{ID: serial, Values: values}}
}

func pmem(id string, p workload.Pmem) machine.Device {
	values := map[string]string{"path": p.Path}
	if p.ReadOnly {
		values["ro"] = "on"
	}
	return machine.Device{Kind: "pmem", Args: virtio.Args{ID: id, Values: values}}
}

func initrds(path string) []string {
	if path == "" {
		return nil
	}
	return []string{path}
}
