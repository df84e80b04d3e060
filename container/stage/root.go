package stage

import (
	"fmt"
	"os"

	"github.com/hvctl/hvctl/container/inroot"
	"golang.org/x/sys/unix"
)

const recursive = unix.MS_REC

// setPropagation applies MS_* propagation, with MS_REC for the whole tree, to
// the mount that fd is the root of.
func setPropagation(fd int, how uint64) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if how&recursive != 0 {
		flags |= unix.AT_RECURSIVE
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", flags, &unix.MountAttr{Propagation: how &^ recursive}))
}

// setAttr changes MOUNT_ATTR_* of the mount that fd is the root of, or of all
// below, too.
func setAttr(fd int, set, clear uint64, all bool) error {
	if set|clear == 0 {
		return nil
	}
	if set&unix.MOUNT_ATTR__ATIME != 0 || clear&unix.MOUNT_ATTR__ATIME != 0 {
		clear |= unix.MOUNT_ATTR__ATIME // the kernel wants the field cleared as a whole
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if all {
		flags |= unix.AT_RECURSIVE
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: set, Attr_clr: clear}))
}

// attach mounts the tree fd on the open directory or file target.
func attach(fd, target int) error {
	return os.NewSyscallError("move_mount", unix.MoveMount(fd, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// bindRoot makes the bundle's root directory a mount of its own and opens it.
// From here on nothing is looked up by a path of the host.
func (s *stage) bindRoot() error {
	r := &s.plan.Root
	how := uint64(unix.MS_SLAVE | recursive)
	switch r.Propagation &^ recursive {
	case unix.MS_PRIVATE, unix.MS_UNBINDABLE:
		how = unix.MS_PRIVATE | recursive
	case unix.MS_SHARED:
		// What is mounted in the container is to reach the host: only the
		// mount that the root directory is in is cut off, below.
		how = 0
	}
	if how != 0 {
		if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Propagation: how &^ recursive}); err != nil {
			return fmt.Errorf("cut the mounts off from the host's: %w", err)
		}
	} else if err := privateParent(r.Path); err != nil {
		return err
	}
	target, err := unix.Open(r.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("root.path: %w", &os.PathError{Op: "open", Path: r.Path, Err: err})
	}
	defer unix.Close(target)
	fd, err := unix.OpenTree(target, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("root.path: open_tree %s: %w", r.Path, err)
	}
	if err := setPropagation(fd, unix.MS_PRIVATE); err != nil {
		return err
	}
	if err := attach(fd, target); err != nil {
		return fmt.Errorf("root.path: %w", err)
	}
	s.root = fd
	return nil
}

// enterRoot makes the root file system the process's root and lets go of the
// host's.
func (s *stage) enterRoot() error {
	r := &s.plan.Root
	if r.ReadOnly {
		if err := setAttr(s.root, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
			return fmt.Errorf("root.readonly: %w", err)
		}
	}
	if err := unix.Fchdir(s.root); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if r.NoPivot {
		if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move the root: %w", err)
		}
		if err := unix.Chroot("."); err != nil {
			return os.NewSyscallError("chroot", err)
		}
	} else {
		if err := unix.PivotRoot(".", "."); err != nil {
			return os.NewSyscallError("pivot_root", err)
		}
		// The old root now lies on top of the new one. Unmounting it must not
		// reach the host.
		if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("cut the old root off: %w", err)
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("let go of the old root: %w", err)
		}
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	if r.Propagation != 0 {
		if err := setPropagation(s.root, r.Propagation); err != nil {
			return fmt.Errorf("linux.rootfsPropagation: %w", err)
		}
	}
	return nil
}

// restrictPaths hides and write-protects what the configuration names.
// Missing ones are skipped, everything else is an error.
func (s *stage) restrictPaths() error {
	root := inroot.Root(s.root)
	for _, name := range s.plan.ReadOnly {
		fd, err := root.Open(name, unix.O_PATH)
		if isMissing(err) {
			continue
		}
		if err == nil {
			err = protect(fd)
		}
		if err != nil {
			return fmt.Errorf("linux.readonlyPaths %s: %w", name, err)
		}
	}
	empty := -1
	for _, name := range s.plan.Masked {
		fd, err := root.Open(name, unix.O_PATH)
		if isMissing(err) {
			continue
		}
		if err == nil {
			err = s.mask(fd, &empty)
		}
		if err != nil {
			return fmt.Errorf("linux.maskedPaths %s: %w", name, err)
		}
	}
	return nil
}

// protect mounts the tree at fd on itself, read-only.
func protect(fd int) error {
	defer unix.Close(fd)
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	if err := setAttr(tree, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
		return err
	}
	return attach(tree, fd)
}

// mask covers fd: a directory by an empty read-only one, all of which are the
// same, and a file by the host's null device.
func (s *stage) mask(fd int, empty *int) error {
	defer unix.Close(fd)
	dir, err := inroot.IsDir(fd)
	if err != nil {
		return err
	}
	source := s.null
	if dir && *empty < 0 {
		if *empty, err = newFS("tmpfs", nil, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, [2]string{"mode", "755"}, [2]string{"size", "0"}); err != nil {
			return err
		}
		// Attached, not copied: before Linux 6.15 only what is attached can be.
		return attach(*empty, fd)
	}
	if dir {
		source = *empty
	}
	tree, err := unix.OpenTree(source, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	return attach(tree, fd)
}
