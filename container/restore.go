package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/program"
	"github.com/hvctl/hvctl/internal/criu"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// RestoreOptions say which container is made again from which files.
type RestoreOptions struct {
	CreateOptions
	CRIUOptions
	// LSMProfile and LSMMountContext replace the labels of processes and mounts.
	LSMProfile, LSMMountContext string
}

// Restore makes a container from a bundle whose processes are those that
// Checkpoint saved. It runs when Restore returns. On error nothing is left.
//
// Errors to test for: ErrInvalidID, ErrExist, ErrConfig, criu.ErrMissing.
func (r *Runtime) Restore(ctx context.Context, o RestoreOptions) (*Proc, error) {
	if err := r.criu(ctx); err != nil {
		return nil, fmt.Errorf("cannot restore container %q: %w", o.ID, err)
	}
	c, err := r.begin(&o.CreateOptions)
	if err != nil {
		return nil, err
	}
	re := &restoring{creation: c, o: &o}
	if err := re.do(ctx); err != nil {
		c.rollback(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("cannot restore container %q: %w", o.ID, err)
	}
	err = c.hooks(ctx, "poststart", Running, nil)
	c.end()
	if err != nil {
		c.pidfd.Close()
		return nil, errors.Join(err, r.Delete(context.WithoutCancel(ctx), o.ID, true))
	}
	return &Proc{c.rec.PID, c.pidfd}, nil
}

// restoring is a container while CRIU makes its processes.
type restoring struct {
	*creation
	o   *RestoreOptions
	job *criu.Job
}

func (re *restoring) do(ctx context.Context) (err error) {
	if re.plan, err = buildPlan(re.spec, re.rec); err != nil {
		return err
	}
	if err := re.awaitGroup(re.makeGroup()); err != nil {
		return err
	}
	if re.job, err = re.o.open(restoreLog); err != nil {
		return err
	}
	defer closeAll([]*os.File{re.job.ImagesDir, re.job.WorkDir})
	re.job.Notify = func(step string, pid int, fd *os.File) error { return re.notify(ctx, step, pid, fd) }
	if re.group != nil {
		if re.job.Group, err = re.group.File(); err != nil {
			return err
		}
		defer re.job.Group.Close()
	}
	if err := re.inherit(re.job.ImagesDir); err != nil {
		return err
	}
	defer func() {
		closeAll(re.creation.own)
		re.creation.own = nil
	}()
	if err := re.mountPoints(); err != nil {
		return err
	}
	root, err := mountRoot(re.dir.file(rootMount), re.rec.Rootfs)
	if err != nil {
		return err
	}
	defer root()
	re.describe()
	pid, err := re.r.CRIU.Restore(ctx, re.job)
	if err == nil && re.pidfd == nil {
		err = re.adopt(pid)
	}
	if err != nil {
		return re.o.explain(restoreLog, err)
	}
	if err := re.inGroup(); err != nil {
		return err
	}
	if err := re.dir.setReady(); err != nil {
		return err
	}
	return re.tell()
}

// describe says what is given from outside in place of what was there.
func (re *restoring) describe() {
	o := &re.job.Options
	o.Root = re.dir.file(rootMount)
	for _, m := range externalMounts(re.plan) {
		o.Mounts = append(o.Mounts, criu.Pair(m))
	}
	if len(re.plan.Masked) > 0 {
		o.Mounts = append(o.Mounts, criu.Pair{Key: nullDevice, Value: nullDevice})
	}
	o.LSMProfile, o.LSMMountContext = re.o.LSMProfile, re.o.LSMMountContext
}

// give adds a descriptor that takes the place of what CRIU saved as name.
func (re *restoring) give(name string, f *os.File) {
	re.job.Inherit = append(re.job.Inherit, criu.Inherit{Key: name, FD: re.job.Give(f)})
}

// maxDescriptors bounds descriptors.json: three names.
const maxDescriptors = 64 << 10

// inherit gives standard streams and the network that are not the container's.
func (re *restoring) inherit(images *os.File) error {
	fd, err := unix.Openat(int(images.Fd()), descriptorsFile, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("--image-path %s: %s: %w; it is not a checkpoint", re.o.Images, descriptorsFile, err)
	}
	f := os.NewFile(uintptr(fd), descriptorsFile)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDescriptors))
	if err != nil {
		return fmt.Errorf("--image-path %s: %w", re.o.Images, err)
	}
	var names []string
	if err := json.Unmarshal(b, &names); err != nil || len(names) > 3 {
		return fmt.Errorf("--image-path %s: %s is not a list of three names", re.o.Images, descriptorsFile)
	}
	streams := stdio(re.o.Stdio)
	for i, name := range names {
		outside := strings.HasPrefix(name, "pipe:[") || strings.HasPrefix(name, "file[")
		if outside && !slices.Contains(names[:i], name) {
			re.give(name, streams[i])
		}
	}
	if ns := namespaceOf(re.spec, specs.NetworkNamespace); ns != nil && ns.Path != "" {
		f, err := openNamespace(ns.Path, unix.CLONE_NEWNET)
		if err != nil {
			return fmt.Errorf("linux.namespaces: network: %w", err)
		}
		re.creation.own = append(re.creation.own, f)
		re.give(externalNetwork, f)
	}
	return nil
}

// mountPoints makes those that are missing in the root file system, which is
// hostile: by the same steps as for a new container.
func (re *restoring) mountPoints() error {
	p := program.MountPoints(re.rec.Rootfs, re.plan.Mounts, sourceIsDir)
	run, err := p.Start(stdio([3]*os.File{}), nil)
	if err != nil {
		return err
	}
	defer run.Close()
	_, err = run.Next()
	reap(run.PID)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// sourceIsDir says whether a mount covers a directory.
func sourceIsDir(m *plan.Mount) bool {
	if m.Kind != plan.Bind {
		return true
	}
	st, err := os.Stat(m.Source)
	return err == nil && st.IsDir()
}

// mountRoot makes the root file system a mount of its own, which CRIU wants,
// and returns what takes it away.
func mountRoot(at, rootfs string) (undo func(), err error) {
	if err := os.Mkdir(at, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount(rootfs, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("root.path: bind %s: %w", rootfs, err)
	}
	undo = func() {
		_ = unix.Unmount(at, unix.MNT_DETACH) // nobody else is in it
		_ = os.Remove(at)
	}
	// What CRIU mounts below must not come out.
	if err := unix.Mount("", at, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		undo()
		return nil, fmt.Errorf("root.path: make it private: %w", err)
	}
	return undo, nil
}

// notify accompanies CRIU.
func (re *restoring) notify(ctx context.Context, step string, pid int, fd *os.File) error {
	switch step {
	case "setup-namespaces":
		if err := re.adopt(pid); err != nil {
			return err
		}
		if re.spec.Hooks == nil {
			return nil
		}
		return re.runtimeHooks(ctx)
	case "orphan-pts-master":
		return re.sendTerminal(fd)
	}
	return nil
}

// adopt takes the first process as the container's.
func (re *restoring) adopt(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0) // our child, or CRIU's
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	re.pidfd, re.rec.PID = os.NewFile(uintptr(fd), "pidfd"), pid
	st, err := readStat(pid)
	if err != nil {
		return err
	}
	re.rec.PIDStart = st.start
	return re.dir.save(re.rec, false)
}

// sendTerminal hands the master of the container's terminal on.
func (re *restoring) sendTerminal(fd *os.File) error {
	if fd == nil {
		return errors.New("criu tells of a terminal and hands over none")
	}
	to := re.o.Console
	if to == nil {
		s, err := connectUnix("--console-socket", re.o.ConsoleSocket)
		if err != nil {
			return err
		}
		defer s.Close()
		to = s
	}
	if err := unix.Sendmsg(int(to.Fd()), []byte("/dev/ptmx"), unix.UnixRights(int(fd.Fd())), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("--console-socket: %w", err)
	}
	return nil
}

// inGroup makes sure that CRIU put the processes where their limits are, and
// settles the group.
func (re *restoring) inGroup() error {
	if re.group == nil {
		return nil
	}
	pids, err := re.group.Procs()
	if err == nil && !slices.Contains(pids, re.rec.PID) {
		err = fmt.Errorf("criu did not put the processes into the container's cgroup %s: restore it with the linux.cgroupsPath that it had", re.rec.CgroupPath+re.rec.Unit)
	}
	if err != nil {
		return err
	}
	return re.group.Settle(re.r.warning())
}
