package container

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mappedMounts opens the sources of bind mounts that the stage cannot: those
// that are to be ID-mapped, which takes privileges over the source's file
// system, and, for a container with a user namespace, all of them: its root
// may not be allowed to look up a path of the host.
func (c *creation) mappedMounts() error {
	for i := range c.spec.Mounts {
		m, err := parseMount(&c.spec.Mounts[i])
		if err != nil {
			return err
		}
		mapped := m.idmap || m.ridmap || len(c.spec.Mounts[i].UIDMappings) > 0
		if m.Kind != plan.Bind || !mapped && !c.rec.UserNS {
			continue
		}
		tree, err := openTree(&m.Mount)
		if errors.Is(err, unix.EPERM) && !mapped {
			continue // we are no more than that root: it may
		}
		if err == nil && mapped {
			if err = c.mapTree(tree, &c.spec.Mounts[i], m.ridmap); err != nil {
				tree.Close()
			}
		}
		if err != nil {
			return fmt.Errorf("mounts[%d] (%s): %w", i, m.Dest, err)
		}
		c.plan.Mounts[i].SourceFD = int32(c.give(tree, true))
	}
	return nil
}

// openTree makes a detached copy of a bind mount's source.
func openTree(m *plan.Mount) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if m.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	if m.NoFollow {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	if err != nil {
		return nil, &os.PathError{Op: "bind", Path: m.Source, Err: err}
	}
	return os.NewFile(uintptr(fd), m.Source), nil
}

// mapTree maps the IDs of a tree as the mount says, or else as the container's
// user namespace does.
func (c *creation) mapTree(tree *os.File, m *specs.Mount, recursive bool) error {
	ns, err := c.mappingNS(m)
	if err != nil {
		return err
	}
	defer ns.Close()
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err = unix.MountSetattr(int(tree.Fd()), "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	if err != nil {
		return fmt.Errorf("map the IDs of %s: %w; its file system may not support it", m.Source, err)
	}
	return nil
}

// mappingNS is a user namespace with the mappings of a mount: that is how the
// kernel is told of them.
func (c *creation) mappingNS(m *specs.Mount) (*os.File, error) {
	uids, gids := m.UIDMappings, m.GIDMappings
	if len(uids) == 0 {
		if c.ns.user != nil {
			return os.Open(fmt.Sprintf("/proc/self/fd/%d", c.ns.user.Fd()))
		}
		uids, gids = c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings
	}
	if len(uids) == 0 {
		return nil, errors.New("idmap needs uidMappings and gidMappings, of the mount or of linux")
	}
	// A namespace begins with a process. This one waits until it is killed.
	p := steps.New()
	p.Call("wait", unix.SYS_PAUSE)
	run, err := p.Start([]*os.File{os.Stdin, os.Stdout, os.Stderr}, &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: idMaps(uids), GidMappings: idMaps(gids), GidMappingsEnableSetgroups: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace for the mappings: %w", err)
	}
	defer run.Close()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", run.PID))
	_ = unix.Kill(run.PID, unix.SIGKILL) // our child, not reaped yet
	reap(run.PID)
	return ns, err
}
