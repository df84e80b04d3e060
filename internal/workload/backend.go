package workload

import (
	"context"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Backend makes instances. The command line, the benchmark and the shared
// lifecycle suite see only this and Instance.
type Backend interface {
	Name() string // "vm", "container", "fake"
	// Prepare turns what was asked into what this backend needs (kernel,
	// initramfs, checks of the host) and fills the defaults in c. It changes
	// nothing on the host but caches, and refuses, with every reason at once,
	// what the backend cannot honour.
	Prepare(ctx context.Context, c *Config) error
	// Command is the program that owns one instance and its arguments; it is
	// started with the instance's state directory as last argument, a session
	// of its own, and the ready pipe as descriptor 3.
	Command() ([]string, error)
}

// OwnerLimiter is a Backend whose owners are the instance, as the host sees it
// (a VMM), and so have to live in the instance's cgroup. The owner is started
// in a group with these limits; required says that c asks for something that
// nothing but the group can give.
type OwnerLimiter interface {
	OwnerLimits(c *Config) (limits *specs.LinuxResources, required bool)
}

// Isolator is a Backend whose instances' processes are the host's: those that
// live in the group at Config.GroupPath, which an owner makes itself and stays
// out of. It mounts the root file system, for which it is started in a mount
// namespace of its own. When it was killed, others find the group by its path.
type Isolator interface {
	OwnMounts() bool
}

// Cleaner is a Backend that can take back what killed owners of instances
// under a state root left on the host. It is harmless at any time.
type Cleaner interface {
	Cleanup(ctx context.Context, root string) error
}

// Instance is somebody else's view of a living or ended instance.
type Instance interface {
	Config() *Config
	State(ctx context.Context) (State, error)
	Start(ctx context.Context) error
	Signal(ctx context.Context, sig unix.Signal) error
	Wait(ctx context.Context) (Exit, error)
	Stats(ctx context.Context) (Stats, error)
	Delete(ctx context.Context) error
}

// State is what is known of an instance now; state.json in its directory.
type State struct {
	Status   Status    `json:"status"`
	PID      int       `json:"pid,omitempty"` // of the owner
	Created  time.Time `json:"created"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Exit     *Exit     `json:"exit,omitempty"`
	IP       string    `json:"ip,omitempty"`
	Ports    []Port    `json:"ports,omitempty"` // published, with the chosen host ports
	// Limits are those in force, once update has changed them; nil: the
	// configuration's.
	Limits *Resources `json:"limits,omitempty"`
}
