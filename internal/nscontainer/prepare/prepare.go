// Package prepare is the command line's half of the container backend: checks
// and defaults, before the process that owns the container is started.
package prepare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/doctor"
	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/nscontainer"
	"github.com/hvctl/hvctl/internal/userns"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Options say what the backend works with.
type Options struct {
	Owner string // the owner program, hvctl-ctr
	// Tree unpacks the image of a configuration into a directory, and returns it,
	// for hosts that cannot mount the image. nil: they are refused.
	Tree func(context.Context, *workload.Config) (string, error)
}

// Backend makes containers.
type Backend struct {
	o   Options
	uid int
	// mounts tells whether the kernel can mount a file system.
	mounts func(fs string) bool
}

var (
	_ workload.Backend  = (*Backend)(nil)
	_ workload.Isolator = (*Backend)(nil)
	_ workload.Cleaner  = (*Backend)(nil)
)

// New returns the backend.
func New(o Options) *Backend {
	return &Backend{o: o, uid: os.Geteuid(), mounts: func(fs string) bool { return doctor.FileSystem("/", fs) }}
}

// Name implements workload.Backend.
func (b *Backend) Name() string { return "container" }

// Command implements workload.Backend.
func (b *Backend) Command() ([]string, error) { return []string{b.o.Owner}, nil }

// OwnMounts implements workload.Isolator.
func (b *Backend) OwnMounts() bool { return true }

// Cleanup implements workload.Cleaner: the owner program knows what owners
// leave.
func (b *Backend) Cleanup(ctx context.Context, root string) error {
	out, err := exec.CommandContext(ctx, b.o.Owner, "cleanup", root).CombinedOutput()
	if err != nil {
		return fmt.Errorf("clean up after a killed container: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// rootless says whether user namespaces are the way: they are for an ordinary
// user, and for who is root in one only.
func (b *Backend) rootless() bool {
	m, err := userns.Current()
	return b.uid != 0 || err == nil && !m.Initial()
}

func refuseRootless(c *workload.Config) (errs []error) {
	if c.Net.Mode == workload.NetBridge {
		errs = append(errs, errors.New("--network bridge needs root; use --network user"))
	}
	if c.Net.Mode == workload.NetCNI {
		errs = append(errs, errors.New("--network cni: its plugins need root; use --network user"))
	}
	if c.Res.Deadline != nil {
		errs = append(errs, errors.New("--cpu-deadline needs root: the kernel promises processor time to nobody else"))
	}
	return errs
}

// Prepare implements workload.Backend.
func (b *Backend) Prepare(ctx context.Context, c *workload.Config) error {
	if c.Net.Mode == "" {
		c.Net.Mode = workload.DefaultNetwork(b.uid)
	}
	var errs []error
	if n := c.Res.CPUs; n != 0 && n < cgroup.MinCPUs {
		errs = append(errs, fmt.Errorf("--cpus %g: the kernel gives no less than %g of a processor", n, cgroup.MinCPUs))
	}
	if m := c.Res.MemoryBytes; m > 0 && m < minMemory {
		errs = append(errs, fmt.Errorf("--memory %d bytes: no program starts with less than %d MiB (write %dm for MiB)", m, minMemory>>20, m))
	}
	if len(c.VM.Disks) > 0 {
		errs = append(errs, errors.New("--disk: a container has no disks of its own; use -v"))
	}
	errs = append(errs, checkMounts(c.Spec)...)
	rootless := b.rootless()
	if rootless {
		errs = append(errs, refuseRootless(c)...)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", workload.ErrUnsupported, err)
	}
	// The rest is judged as every OCI configuration is, so that a mistake has its
	// message before anything is made.
	if err := container.Validate(nscontainer.Spec(c, "/", etcfiles.Creds{})); err != nil {
		return err
	}
	if !rootless && b.mounts(c.Rootfs.FSType) {
		return nil
	}
	if b.o.Tree == nil {
		return fmt.Errorf("this kernel has no file system %s; load its module: modprobe %s", c.Rootfs.FSType, c.Rootfs.FSType)
	}
	var err error
	c.Rootfs.Dir, err = b.o.Tree(ctx, c)
	return err
}

// minMemory is what the kernel needs to load a program at all, and a typo of
// the unit is most likely below it.
const minMemory = 1 << 20

// checkMounts looks at what volumes come from, while somebody reads the answer.
func checkMounts(s *specs.Spec) (errs []error) {
	for _, m := range s.Mounts {
		if m.Type != "bind" {
			continue
		}
		if _, err := os.Stat(m.Source); err != nil {
			errs = append(errs, fmt.Errorf("volume %s on %s: %w; make it first", m.Source, m.Destination, err))
		}
	}
	return errs
}
