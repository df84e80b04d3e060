package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Host is the World without any: a process of the host, changed into the
// image's files below an overlay in memory, in a cgroup of its own. It needs root.
type Host struct {
	Tree   string // the image's files, a directory
	Dir    string // for mounts
	Config func(Job) (*workload.Config, error)
}

// Name implements World.
func (h *Host) Name() string { return "host" }

// Start implements World.
func (h *Host) Start(_ context.Context, j Job) (_ *Living, err error) {
	l := &Living{begin: time.Now(), ID: instance.NewID()}
	cfg, err := h.Config(j)
	if err != nil {
		return nil, err
	}
	if j.Cold {
		if err := chill([]string{filepath.Join(h.Tree, Program)}); err != nil {
			return nil, err
		}
		l.begin = time.Now()
	}
	dir := filepath.Join(h.Dir, l.ID[:12])
	var group *cgroup.Group
	free := func(ctx context.Context) error {
		errs := []error{dropMounts(dir)}
		if group != nil {
			errs = append(errs, group.Kill(ctx), group.Delete(ctx))
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, free(context.Background()))
		}
	}()
	root, err := makeMounts(h.Tree, dir)
	if err != nil {
		return nil, err
	}
	if group, err = cgroup.Create(cgroup.Options{Path: workload.DefaultCgroupParent + "/host-" + l.ID, Resources: hostLimits(cfg.Res)}); err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	p := cfg.Spec.Process
	if j.Disk != nil {
		p.Args = named(p.Args, j.Disk.Path)
	}
	cmd := &exec.Cmd{Path: p.Args[0], Args: p.Args, Env: p.Env, Dir: p.Cwd, SysProcAttr: &syscall.SysProcAttr{
		Chroot: root, Setsid: true, Credential: &syscall.Credential{Uid: p.User.UID, Gid: p.User.GID, Groups: p.User.AdditionalGids},
	}}
	if f, ferr := group.File(); ferr == nil {
		defer f.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer outW.Close()
	cmd.Stdout, cmd.Stderr = outW, outW
	if l.In, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	l.CreateNs = time.Since(l.begin).Nanoseconds()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if group.NeedsAdd() {
		if err := group.Add(cmd.Process.Pid); err != nil {
			return nil, err
		}
	}
	if d := cfg.Res.Deadline; d != nil {
		attr := unix.SchedAttr{Policy: unix.SCHED_DEADLINE, Flags: unix.SCHED_FLAG_RESET_ON_FORK, Runtime: uint64(d.Runtime), Deadline: uint64(d.Deadline), Period: uint64(d.Period)}
		if err := unix.SchedSetAttr(cmd.Process.Pid, &attr, 0); err != nil {
			return nil, d.Explain(err)
		}
	}
	l.running = time.Now()
	l.StartNs = l.running.Sub(l.begin).Nanoseconds() - l.CreateNs
	l.Out = outR
	l.usage = func(context.Context) (Usage, error) {
		st, err := group.Stats()
		return Usage{CPUNs: uint64(st.CPU.Usage.Nanoseconds()), MemoryBytes: st.Memory.Usage, OOMKills: st.Memory.OOMKill}, err
	}
	l.signal = func(_ context.Context, sig unix.Signal) error { return unix.Kill(cmd.Process.Pid, sig) }
	l.pids = func() []int { return family(cmd.Process.Pid) }
	l.wait = func() (workload.Exit, error) {
		_ = outR.Close()
		err := cmd.Wait()
		var ee *exec.ExitError
		if err != nil && !errors.As(err, &ee) {
			return workload.Exit{}, err
		}
		code := cmd.ProcessState.ExitCode()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
		return workload.Exit{Code: code}, nil
	}
	l.remove = free
	return l, nil
}

// hostLimits are limits with the meaning that they have for a container.
func hostLimits(r workload.Resources) *specs.LinuxResources {
	out := cgroup.Limits{CPUs: r.CPUs, Weight: r.CPUWeight, Tasks: r.PIDs, IO: r.BlockIO}.Resources()
	if r.MemoryBytes > 0 {
		limit := int64(r.MemoryBytes)
		out.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	}
	return out
}

// makeMounts mounts what a container has: an overlay whose upper layer is in
// memory, /proc, /dev and a /tmp.
func makeMounts(tree, dir string) (root string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0711"); err != nil {
		return "", os.NewSyscallError("mount", err)
	}
	root = filepath.Join(dir, "root")
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{root, upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir="+tree+",upperdir="+upper+",workdir="+work); err != nil {
		return "", fmt.Errorf("mount the overlay: %w", err)
	}
	for _, d := range []string{"proc", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return "", os.NewSyscallError("mount", err)
	}
	if err := unix.Mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND, ""); err != nil {
		return "", os.NewSyscallError("mount", err)
	}
	return root, nil
}

func dropMounts(dir string) error {
	root := filepath.Join(dir, "root")
	for _, d := range []string{filepath.Join(root, "dev"), filepath.Join(root, "proc"), root, dir} {
		if err := unix.Unmount(d, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return &os.PathError{Op: "unmount", Path: d, Err: err}
		}
	}
	err := os.Remove(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
