package workload

import (
	"net/netip"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Config is everything an instance was asked to be, after defaults. It is
// written once as config.json in the instance's state directory and never
// changed while the instance runs.
type Config struct {
	ID      string            `json:"id"`   // 64 hex digits, unique for ever
	Name    string            `json:"name"` // unique among living instances
	Backend string            `json:"backend"`
	Image   Image             `json:"image"`
	Rootfs  Rootfs            `json:"rootfs"`
	Spec    *specs.Spec       `json:"spec"` // OCI runtime-spec: process, hostname, mounts
	Res     Resources         `json:"resources"`
	Net     Network           `json:"network"`
	VM      VM                `json:"vm,omitzero"`
	Labels  map[string]string `json:"labels,omitempty"`

	// DataDir is a directory of this instance alone, whose last element is its
	// ID; it goes when the instance is removed. Empty: it has none. The owner of a
	// VM writes files for others into OutDir there, and reads what they have for
	// it in InDir: it can open nothing else of the host's.
	DataDir string `json:"dataDir,omitempty"`
	// OpenStdin keeps the process's standard input open and attachable
	// (docker's -i). Without it the process reads end of file at once.
	OpenStdin bool `json:"openStdin,omitempty"`
	// AutoRemove deletes the state directory when the process ends.
	AutoRemove bool `json:"autoRemove,omitempty"`
	// StopSignal is sent first by stop; empty means SIGTERM.
	StopSignal string `json:"stopSignal,omitempty"`
	// StopTimeoutSeconds is what stop waits before it kills.
	StopTimeoutSeconds int `json:"stopTimeoutSeconds"`
	// Log says how much of the output is kept.
	Log Log `json:"log,omitzero"`
}

// Log bounds what an instance's output may occupy on the host.
type Log struct {
	Off      bool  `json:"off,omitempty"`      // keep nothing
	MaxBytes int64 `json:"maxBytes,omitempty"` // of one file; 0: 10 MiB
	Files    int   `json:"files,omitempty"`    // with the rotated ones; 0: 3
}

// Image names the image an instance was made from.
type Image struct {
	Ref    string `json:"ref"`    // as the user wrote it, normalized
	Digest string `json:"digest"` // of the manifest, "sha256:..."
}

// Rootfs is where the root file system comes from. Exactly one of ImagePath
// (a read-only file system image shared by all instances of the digest) and
// Dir (a directory, which a VM shares as it is) is set.
type Rootfs struct {
	ImagePath string `json:"imagePath,omitempty"`
	FSType    string `json:"fsType,omitempty"` // "erofs", "ext4"
	Dir       string `json:"dir,omitempty"`
	ReadOnly  bool   `json:"readOnly,omitempty"` // no writable layer on top
	// Layer is a file that the writable layer is filled from before the start (package
	// upper); empty: it begins empty.
	Layer string `json:"layer,omitempty"`
}

// Resources are limits with one meaning on every backend. Zero means no limit
// for a container and the stated default for a VM.
type Resources struct {
	CPUs        float64 `json:"cpus,omitempty"`        // VM: vCPUs = ceil, default 1
	MemoryBytes uint64  `json:"memoryBytes,omitempty"` // VM: guest RAM, default 512 MiB
	PIDs        int64   `json:"pids,omitempty"`
	CPUWeight   uint64  `json:"cpuWeight,omitempty"` // cgroup v2 cpu.weight, 1 to 10000
	// BlockIO has the most that is read from and written to block devices of the
	// host; nil: no bounds. Only its Throttle fields are used.
	BlockIO *specs.LinuxBlockIO `json:"blockIO,omitempty"`
	// Deadline promises processor time; nil: none is.
	Deadline *Deadline `json:"deadline,omitempty"`
	// CgroupParent is the cgroup to make the instance's group in, an absolute
	// path; empty: DefaultCgroupParent.
	CgroupParent string `json:"cgroupParent,omitempty"`
}

// DefaultCgroupParent is where instances' cgroups are.
const DefaultCgroupParent = "/hvctl"

// Directories in Config.DataDir.
const (
	OutDir = "out"
	InDir  = "in"
)

// GroupPath is the cgroup of the instance. Package cgroup judges it.
func (c *Config) GroupPath() string {
	parent := c.Res.CgroupParent
	if parent == "" {
		parent = DefaultCgroupParent
	}
	return path.Join(parent, c.Backend+"-"+c.ID)
}

// OwnRoot tells whether the owner of a VM can do with a root directory of its own once
// the guest runs: not one that starts its program again when memory comes late, and
// not one with directories of the host, of which it would lose what is mounted below
// them.
func (c *Config) OwnRoot() bool {
	late := c.VM.Receive != nil || c.VM.Restore != nil && c.VM.Restore.Lazy
	shares := c.Rootfs.Dir != "" || c.Spec != nil && slices.ContainsFunc(c.Spec.Mounts, func(m specs.Mount) bool { return m.Type == "bind" })
	return !late && !shares
}

// NetGroup is the cgroup of a container's user-mode network, beside the
// container's own at path. A VM's is the VM's.
func NetGroup(path string) string { return path + "-net" }

// Network modes.
const (
	NetNone   = "none"   // loopback only
	NetBridge = "bridge" // an address on hvctl's bridge, NAT to the outside
	NetUser   = "user"   // a TCP/IP stack in a process: no privileges needed
	NetCNI    = "cni"    // a network of the host's CNI configuration
	NetTap    = "tap"    // an interface that somebody has made; VMs only
	NetHost   = "host"   // the host's own network; containers only
)

// Network says how the instance reaches others and is reached.
type Network struct {
	Mode      string       `json:"mode"`
	Publish   []Port       `json:"publish,omitempty"`
	MAC       string       `json:"mac,omitempty"` // empty: derived from the ID
	IP        netip.Addr   `json:"ip,omitzero"`   // zero: the next free one
	DNS       []netip.Addr `json:"dns,omitempty"` // empty: the host's
	Hosts     []string     `json:"hosts,omitempty"`
	ReachHost bool         `json:"reachHost,omitempty"` // NetUser: the gateway leads to the host
	CNI       *CNI         `json:"cni,omitempty"`       // with NetCNI
	Tap       *Tap         `json:"tap,omitempty"`       // with NetTap
	MTU       int          `json:"mtu,omitempty"`       // NetBridge and NetTap; 0: the network's
	Queues    int          `json:"queues,omitempty"`    // VMs with NetBridge or NetTap: pairs of queues; 0: one
	Limit     NetLimit     `json:"limit,omitzero"`      // NetBridge
	Vhost     bool         `json:"vhost,omitempty"`     // as Queues: the host's kernel serves them
}

// NetLimit bounds what an instance receives and sends, in bytes a second; 0 does
// not.
type NetLimit struct {
	Rx uint64 `json:"rx,omitempty"`
	Tx uint64 `json:"tx,omitempty"`
}

// Tap names an interface of the host, a tap or a macvtap, and the guest's place in
// the network behind it.
type Tap struct {
	Interface string       `json:"interface"`
	Address   netip.Prefix `json:"address,omitzero"` // zero: the guest is told none
	Gateway   netip.Addr   `json:"gateway,omitzero"`
}

// CNI names a network that plugins make (https://www.cni.dev).
type CNI struct {
	Network string   `json:"network"`
	ConfDir string   `json:"confDir"` // of configurations
	Plugins []string `json:"plugins"` // directories of programs
}

// Attached tells whether the instance has an address of its own and published
// ports in that mode.
func (n *Network) Attached() bool {
	return n.Mode == NetBridge || n.Mode == NetUser || n.Mode == NetCNI
}

// DefaultNetwork is the mode of an instance of a user (an effective user ID)
// who asks for none.
func DefaultNetwork(uid int) string {
	if uid == 0 {
		return NetBridge
	}
	return NetUser
}

// Port publishes a port of the instance on the host.
type Port struct {
	HostIP   netip.Addr `json:"hostIP,omitzero"` // zero: every address
	HostPort uint16     `json:"hostPort"`        // 0: a free one is chosen
	Port     uint16     `json:"port"`
	Protocol string     `json:"protocol"` // "tcp" or "udp"
}

// VM are the options only a microVM has.
type VM struct {
	Kernel    string `json:"kernel,omitempty"`    // path of the kernel image
	KernelRef string `json:"kernelRef,omitempty"` // name in the kernel store, for messages
	// KernelCache is where unpacked kernels are kept.
	KernelCache string `json:"kernelCache,omitempty"`
	Initrd      string `json:"initrd,omitempty"`    // prepared initramfs with hvinit
	Cmdline     string `json:"cmdline,omitempty"`   // appended to the default one
	Transport   string `json:"transport,omitempty"` // "pci" or "mmio"
	Disks       []Disk `json:"disks,omitempty"`     // beside the root file system
	HugePages   bool   `json:"hugePages,omitempty"`
	// OnPanic is what becomes of a guest whose kernel has crashed, and Watchdog of one
	// that has not written to its watchdog in time; empty: AtEndExit, and no watchdog.
	OnPanic  string `json:"onPanic,omitempty"`
	Watchdog string `json:"watchdog,omitempty"`
	// MaxCPUs is how many processors UpdateVCPUs may give it; 0: as many as it has.
	MaxCPUs int `json:"maxCPUs,omitempty"`
	// MaxMemoryBytes is how much memory UpdateMemory may give it; 0: as much as it has.
	MaxMemoryBytes uint64 `json:"maxMemoryBytes,omitempty"`
	// Rootfs is how the guest finds its image: RootfsBlk or RootfsPmem; empty: as
	// RootfsBlk.
	Rootfs string `json:"rootfs,omitempty"`
	// Pmem are files that a Raw VM has as memory.
	Pmem []Pmem `json:"pmem,omitempty"`
	// Balloon lets the guest give memory back; nil: it cannot.
	Balloon *Balloon `json:"balloon,omitempty"`
	CPU     string   `json:"cpu,omitempty"` // model of the processor that the guest is shown (package cpuid)
	// Vsock is the socket device of a Raw VM; without it the guest has one that
	// nobody listens to. Other VMs have one for the agent.
	Vsock *Vsock `json:"vsock,omitempty"`
	// Raw boots Kernel, Initrd, Cmdline and Disks as they are, with no agent
	// and no image: the serial console is the first process's terminal, and
	// Cmdline is the whole command line (hvctl boot).
	Raw bool `json:"raw,omitempty"`
	// Restore lets the VM go on from a snapshot; Kernel, Initrd and Cmdline then
	// say only how the original was booted.
	Restore *Restore `json:"restore,omitempty"`
	// Receive waits for a VM that another owner sends, in place of booting one.
	// What it is, comes with it.
	Receive *Receive `json:"receive,omitempty"`
	// GDB is where gdb is waited for, as gdbstub.ParseAddress reads it; empty: it
	// is not. With GDBWait the guest does not begin before gdb lets it.
	GDB     string `json:"gdb,omitempty"`
	GDBWait bool   `json:"gdbWait,omitempty"`
	// Timeline asks the VMM to record when each stage of the start was
	// reached (hvctl bench boot).
	Timeline bool `json:"timeline,omitempty"`
}

// Balloon is the device by which a guest gives memory back.
type Balloon struct {
	TargetBytes uint64 `json:"targetBytes,omitempty"` // to take from it at first
	NoOOM       bool   `json:"noOOM,omitempty"`       // not even a guest that is out of memory takes some of that back
	NoReporting bool   `json:"noReporting,omitempty"` // it does not give back by itself what it has free
}

// How a guest finds its image.
const (
	RootfsBlk  = "blk"  // as a disk
	RootfsPmem = "pmem" // as memory, whose pages it shares with the host's page cache
)

// Pmem is a file that a VM has as persistent memory.
type Pmem struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// What becomes of a guest that has come to an end that nobody wanted.
const (
	AtEndExit  = "exit"  // the VM ends
	AtEndDump  = "dump"  // it does, and leaves CrashFile
	AtEndPause = "pause" // it stands still, for who wants to look at it, until it is killed
)

// CrashFile is the core of a guest that AtEndDump left, in the state directory.
const CrashFile = "guest.core"

// Vsock backends.
const (
	VsockUser  = "user"  // sockets of the VMM: the VM alone knows the CID
	VsockVhost = "vhost" // the host's AF_VSOCK, served by its kernel
)

// Vsock is the socket device of a VM.
type Vsock struct {
	CID     uint32 `json:"cid"`
	Backend string `json:"backend,omitempty"` // empty: VsockUser
	// Path, only with VsockUser, is the unix socket that leads to the guest's
	// ports; what the guest dials goes to Path_PORT. Empty: there is no way in.
	Path string `json:"path,omitempty"`
}

// Disk is one block device of a VM.
type Disk struct {
	Path     string `json:"path"`
	Format   string `json:"format,omitempty"`  // raw or qcow2; empty: raw
	Overlay  string `json:"overlay,omitempty"` // of what is written, with qcow2
	ReadOnly bool   `json:"readOnly,omitempty"`
	Serial   string `json:"serial,omitempty"`
	Cache    string `json:"cache,omitempty"`  // writeback or none; empty: writeback
	Engine   string `json:"engine,omitempty"` // plain or uring; empty: uring where there is one
	Queues   int    `json:"queues,omitempty"` // 0: one
	DiskLimits
}

// DiskLimits hold a disk to a rate; 0 is no limit.
type DiskLimits struct {
	IOPS uint64 `json:"iops,omitempty"` // requests a second
	BPS  uint64 `json:"bps,omitempty"`  // bytes a second
}
