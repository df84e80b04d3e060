package guestproto

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Version is the protocol's version, which the guest sends in Hello. The host
// speaks with the one before, too: the agent of a guest that was restored or
// moved is of the build that booted it. Version 2 added Pod, Create and Remove.
const Version = 2

// VersionPods is the first version with pods.
const VersionPods = 2

// Addresses of the host's listeners.
const (
	// HostCID is the vsock context id by which a guest names its host.
	HostCID = 2
	// ControlPort is the vsock port of the control connection.
	ControlPort = 1024
	// StreamPort is the vsock port of the stream connections.
	StreamPort = 1025
)

// Methods that the host calls. Each takes the type named and answers with the
// type after the arrow, or with an empty object.
const (
	MethodRun        = "run"         // Run -> Started
	MethodPod        = "pod"         // Pod
	MethodCreate     = "create"      // Container -> Started
	MethodRemove     = "remove"      // Remove
	MethodExec       = "exec"        // Process -> Started
	MethodAttach     = "attach"      // Attach
	MethodSignal     = "signal"      // Signal
	MethodResize     = "resize"      // Resize
	MethodCloseStdin = "close_stdin" // CloseStdin
	MethodCopy       = "copy"        // Copy -> Started
	MethodPack       = "pack"        // Layer -> Started: the writable layer goes out
	MethodFill       = "fill"        // Layer -> Started: it comes in, before Run
	MethodSuspend    = "suspend"     // stop every process of the workload, and flush what they wrote
	MethodContinue   = "continue"    // let them go on
	MethodTop        = "top"         // -> Table
	MethodStats      = "stats"       // -> Stats
	MethodPing       = "ping"        // -> Pong
	MethodSyncClock  = "sync_clock"  // SyncClock
	MethodBeat       = "beat"        // Beat -> Gap
	MethodReseed     = "reseed"      // Reseed
	MethodIdentify   = "identify"    // Identity
	MethodPlug       = "plug"        // Plug
	MethodLimit      = "limit"       // Limit
	MethodFreeze     = "freeze"      // flush and block writes to the disks
	MethodThaw       = "thaw"        // allow writes again
	MethodShutdown   = "shutdown"    // Shutdown
)

// Notifications that the guest sends.
const (
	NotifyHello = "hello" // Hello: the first message on every control connection
	NotifyExit  = "exit"  // Exit: a process ended and its streams are flushed
	NotifyLog   = "log"   // Log: something the host's operator should know
)

// Run tells the guest everything about the workload in one message: what its
// root is made of, the network, and the first process. It is called once.
type Run struct {
	Root     Root              `json:"root"`
	Mounts   []Mount           `json:"mounts,omitempty"`
	Hostname string            `json:"hostname,omitempty"`
	Network  *Network          `json:"network,omitempty"`
	Sysctl   map[string]string `json:"sysctl,omitempty"`
	Process  Process           `json:"process"`
	// PIDs bounds the workload's tasks, those of Exec included; 0: no bound.
	PIDs int64 `json:"pids,omitempty"`
	// MaskedPaths are hidden from the workload, ReadonlyPaths made read-only
	// (OCI's linux.maskedPaths and linux.readonlyPaths). Those that the tree
	// does not have are passed over.
	MaskedPaths   []string `json:"masked_paths,omitempty"`
	ReadonlyPaths []string `json:"readonly_paths,omitempty"`
	// Disks are the further disks that the workload finds in its /dev, under
	// the names that the guest's kernel gives them.
	Disks []Device `json:"disks,omitempty"`
	// Clock is the wall clock in nanoseconds since 1970; 0 leaves it alone.
	Clock int64 `json:"clock,omitempty"`
	// Entropy is credited to the guest's random generator, 8 bits a byte.
	Entropy []byte `json:"entropy,omitempty"`
	// KeepAlive keeps the machine running after the first process ends;
	// otherwise the guest flushes everything, syncs and powers off.
	KeepAlive bool `json:"keep_alive,omitempty"`
	// Init runs the workload in the guest's own PID namespace, as an ordinary
	// process whose orphans the guest's init reaps. Otherwise the first
	// process is PID 1 of a namespace of its own, as in a container.
	Init bool `json:"init,omitempty"`
}

// Root describes the workload's root file system: a read-only image below, and
// a writable layer above it, or a directory that is shared as it is.
type Root struct {
	// Share is the tag of the directory that is the root. Its /etc/hosts and the
	// like are whoever's shares it and left alone; nothing else here but
	// ReadOnly counts then.
	Share string `json:"share,omitempty"`
	// Device holds the image.
	Device Device `json:"device"`
	// FSType is the image's file system, for example "erofs".
	FSType string `json:"fstype"`
	// Upper is the writable layer.
	Upper Upper `json:"upper"`
	// ReadOnly shows the root read-only to the workload. The guest still
	// writes its /etc/hosts and the like before.
	ReadOnly bool `json:"readonly,omitempty"`
}

// Device names a block device of the guest.
type Device struct {
	// Serial is the virtio-blk serial number; it decides when not empty.
	Serial string `json:"serial,omitempty"`
	// Index is the position among the virtio disks: 0 is /dev/vda. With Pmem it is
	// that among the persistent memories: 0 is /dev/pmem0.
	Index int  `json:"index,omitempty"`
	Pmem  bool `json:"pmem,omitempty"`
}

// Upper is where writes to the root go.
type Upper struct {
	// Device is a block device with a file system that can be written to; nil
	// means a tmpfs.
	Device *Device `json:"device,omitempty"`
	// FSType is the device's file system; empty means ext4.
	FSType string `json:"fstype,omitempty"`
	// TmpfsBytes bounds the tmpfs; 0 means the kernel's default, half of RAM.
	TmpfsBytes uint64 `json:"tmpfs_bytes,omitempty"`
}

// Mount is one more mount in the workload's tree, in OCI's terms.
type Mount struct {
	Destination string `json:"destination"`
	Type        string `json:"type"`
	// Source is the device, or the tag of a shared directory. When Device is
	// set, it is that device's node.
	Source string  `json:"source,omitempty"`
	Device *Device `json:"device,omitempty"`
	// File, for a shared directory, is the one file in it that is to be mounted
	// on Destination; empty means the directory itself.
	File    string   `json:"file,omitempty"`
	Options []string `json:"options,omitempty"`
}

// Network configures one interface, and the names the workload resolves. With
// neither MAC nor Addresses it is names only.
type Network struct {
	// MAC picks the interface; empty picks the first that is not loopback.
	MAC string `json:"mac,omitempty"`
	// Name renames it; empty means eth0.
	Name string `json:"name,omitempty"`
	// Addresses are in CIDR form.
	Addresses []string `json:"addresses,omitempty"`
	Routes    []Route  `json:"routes,omitempty"`
	// MTU of 0 leaves the device's own.
	MTU int `json:"mtu,omitempty"`
	// DNS servers, search domains and options go to /etc/resolv.conf.
	DNS     []string `json:"dns,omitempty"`
	Search  []string `json:"search,omitempty"`
	Options []string `json:"options,omitempty"`
	// Hosts are lines for /etc/hosts beyond the usual ones.
	Hosts []Host `json:"hosts,omitempty"`
}

// Route is a route by gateway, or to the link when Gateway is empty.
type Route struct {
	// Destination is in CIDR form; empty means the default route.
	Destination string `json:"destination,omitempty"`
	Gateway     string `json:"gateway,omitempty"`
}

// Host is a line of /etc/hosts.
type Host struct {
	Address string   `json:"address"`
	Names   []string `json:"names"`
}

// Process is a process to start: the first one (in Run or Container) or another
// (Exec).
type Process struct {
	// ID names the process in every later message. It is chosen by the host
	// and fits CheckID.
	ID string `json:"id"`
	// Container, for Exec, is the one of a pod that the process joins.
	Container string `json:"container,omitempty"`
	// Spec is the OCI process. Args, Env, Cwd, Terminal, ConsoleSize, User,
	// Rlimits, Capabilities, NoNewPrivileges and OOMScoreAdj are applied. Nil
	// capabilities leave all of them.
	Spec specs.Process `json:"spec"`
	// User, when not empty, is "user[:group]" by name or number as in an
	// image's configuration. It is looked up in the workload's /etc/passwd
	// and /etc/group and replaces Spec.User.
	User string `json:"user,omitempty"`
	// Filter is loaded right before the program; nil: none.
	Filter *Filter `json:"filter,omitempty"`
	// Streams are the tokens of the standard streams. A zero token connects
	// the descriptor to /dev/null. With a terminal only the first counts.
	Streams Streams `json:"streams"`
}

// Filter is a compiled system call filter.
type Filter struct {
	Program []byte `json:"program"` // an array of struct sock_filter
	Flags   uint32 `json:"flags,omitempty"`
}

// Streams are the tokens of the three standard streams of a process.
type Streams [3]Token

// Attach gives the streams of a running process new connections, after the old
// ones broke. A zero token means: throw that output away from now on.
type Attach struct {
	ID      string  `json:"id"`
	Streams Streams `json:"streams"`
}

// Signal sends a signal to a process.
type Signal struct {
	ID     string `json:"id"`
	Signal int    `json:"signal"`
	// All sends it to every process of the workload instead.
	All bool `json:"all,omitempty"`
}

// Resize sets the size of a process's terminal.
type Resize struct {
	ID     string `json:"id"`
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// CloseStdin closes a process's standard input; on a terminal it types the
// end-of-file character instead. Only this message ends an input: a stream
// connection that ends without it is a broken one, which Attach may replace.
type CloseStdin struct {
	ID string `json:"id"`
	// Bytes is how much was sent on the input's present connection; the
	// input is closed when all of it has reached the process.
	Bytes int64 `json:"bytes"`
}

// Plug says that a disk has come while the workload runs, which finds it in its
// /dev from then on, or has gone.
type Plug struct {
	Serial string `json:"serial"`
	Gone   bool   `json:"gone,omitempty"`
}

// Limit changes what the workload is held to while it runs.
type Limit struct {
	// PIDs bounds its tasks, as Run.PIDs does; above 0. Those that are there stay.
	PIDs int64 `json:"pids"`
}

// SyncClock sets the guest's wall clock.
type SyncClock struct {
	// UnixNano is nanoseconds since 1970.
	UnixNano int64 `json:"unix_nano"`
}

// Beat has the agent look at its clock every 2 ms from now on, or stop doing
// so: what it misses is time in which the guest did not run.
type Beat struct {
	On bool `json:"on"`
}

// Reseed mixes fresh entropy into the guest's random generator, and makes it
// forget what it would have given out: two copies of one machine must differ.
type Reseed struct {
	Entropy []byte `json:"entropy"`
}

// Identity makes a machine that was copied another one than the original: its
// random numbers, clock, name and network. Everything but Clock and Entropy
// replaces what Run said.
type Identity struct {
	Hostname string   `json:"hostname,omitempty"`
	Network  *Network `json:"network,omitempty"`
	// Clock is the wall clock in nanoseconds since 1970.
	Clock   int64  `json:"clock"`
	Entropy []byte `json:"entropy"`
}

// Shutdown ends the workload and the machine: the signal, then SIGKILL after
// the timeout, then flush, sync and power off.
type Shutdown struct {
	// Signal is sent to the first process; 0 means SIGTERM.
	Signal int `json:"signal,omitempty"`
	// TimeoutMs is how long the first process may take.
	TimeoutMs int64 `json:"timeout_ms"`
}
