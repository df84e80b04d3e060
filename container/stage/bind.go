package stage

import (
	"fmt"
	"os"

	"github.com/hvctl/hvctl/container/inroot"
	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// mountBind mounts an existing tree: one the runtime opened, or one we open
// here, while the host's root is still ours.
func (s *stage) mountBind(m *plan.Mount) error {
	fd := int(m.SourceFD)
	if fd < 0 {
		flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
		if m.Recursive {
			flags |= unix.AT_RECURSIVE
		}
		if m.NoFollow {
			flags |= unix.AT_SYMLINK_NOFOLLOW
		}
		var err error
		if fd, err = unix.OpenTree(unix.AT_FDCWD, m.Source, flags); err != nil {
			return &os.PathError{Op: "bind", Path: m.Source, Err: err}
		}
	}
	dir, err := inroot.IsDir(fd)
	if err != nil {
		return err
	}
	root := inroot.Root(s.root)
	var target int
	if dir {
		target, err = root.MkdirAll(m.Dest, 0o755)
	} else {
		target, err = root.Touch(m.Dest)
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := bindAttr(m, fd); err != nil {
		return err
	}
	return s.place(m, fd, target, false)
}

// bindAttr sets the flags of a bind mount that were asked for; what was not
// stays as it is in the source.
func bindAttr(m *plan.Mount, fd int) error {
	if err := setAttr(fd, m.AttrSet, m.AttrClear, false); err != nil {
		return fmt.Errorf("options: %w", err)
	}
	if err := setAttr(fd, m.RecSet, m.RecClear, true); err != nil {
		return fmt.Errorf("recursive options: %w", err)
	}
	return nil
}

// mountCgroup shows the container its cgroup: as one tree (v2), or as a
// directory per hierarchy (v1).
func (s *stage) mountCgroup(m *plan.Mount) error {
	target, err := s.realDir(m.Dest)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if len(m.Cgroups) == 1 && m.Cgroups[0].Key == "" {
		fd, err := newFS("cgroup2", nil, m.AttrSet)
		if err != nil { // no cgroup namespace of our own: the part that is ours
			if fd, err = unix.OpenTree(unix.AT_FDCWD, m.Cgroups[0].Value, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
				return &os.PathError{Op: "bind", Path: m.Cgroups[0].Value, Err: err}
			}
			if err := setAttr(fd, m.AttrSet, 0, false); err != nil {
				return err
			}
		}
		return s.place(m, fd, target, false)
	}
	ro := m.AttrSet & unix.MOUNT_ATTR_RDONLY
	fd, err := newFS("tmpfs", nil, m.AttrSet&^ro, [2]string{"mode", "755"}, [2]string{"size", "64k"})
	if err != nil {
		return err
	}
	// The tree on the descriptor is ours alone until it is attached.
	for _, c := range m.Cgroups {
		if err := os.NewSyscallError("mkdirat", unix.Mkdirat(fd, c.Key, 0o755)); err != nil {
			return fmt.Errorf("%s: %w", c.Key, err)
		}
	}
	if err := s.place(m, fd, target, ro != 0); err != nil {
		return err
	}
	// Mounts cannot be attached below a detached tree on older kernels.
	root := inroot.Root(s.root)
	for _, c := range m.Cgroups {
		if err := s.cgroupBind(root, m, c); err != nil {
			return fmt.Errorf("%s: %w", c.Key, err)
		}
	}
	return nil
}

func (s *stage) cgroupBind(root inroot.Root, m *plan.Mount, c plan.Pair) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, c.Value, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "bind", Path: c.Value, Err: err}
	}
	defer unix.Close(tree)
	if err := setAttr(tree, m.AttrSet, 0, false); err != nil {
		return err
	}
	target, err := root.OpenReal(m.Dest+"/"+c.Key, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return attach(tree, target)
}
