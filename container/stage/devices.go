package stage

import (
	"errors"
	"fmt"
	"os"

	"github.com/hvctl/hvctl/container/inroot"
	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// devLinks are in every container's /dev.
var devLinks = [...][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
}

// devices makes the device files and links.
func (s *stage) devices() error {
	for i := range s.plan.Devices {
		if err := s.device(&s.plan.Devices[i]); err != nil {
			return fmt.Errorf("device %s: %w", s.plan.Devices[i].Path, err)
		}
	}
	if !s.plan.DevDefaults {
		return nil
	}
	dev, err := inroot.Root(s.root).MkdirAll("/dev", 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(dev)
	for _, l := range devLinks {
		if err := unix.Symlinkat(l[1], dev, l[0]); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "symlink", Path: "/dev/" + l[0], Err: err}
		}
	}
	// A ptmx that is not the one of the container's own devpts would open
	// somebody else's terminals.
	if err := unix.Unlinkat(dev, "ptmx", 0); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "remove", Path: "/dev/ptmx", Err: err}
	}
	if err := unix.Symlinkat("pts/ptmx", dev, "ptmx"); err != nil {
		return &os.PathError{Op: "symlink", Path: "/dev/ptmx", Err: err}
	}
	return nil
}

func (s *stage) device(d *plan.Device) error {
	dir, base, err := inroot.Root(s.root).Parent(d.Path)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if s.plan.UserNS && d.Mode&unix.S_IFMT != unix.S_IFIFO {
		return s.bindDevice(d, dir, base)
	}
	dev := unix.Mkdev(d.Major, d.Minor)
	if d.Mode&unix.S_IFMT == unix.S_IFIFO {
		dev = 0
	}
	err = unix.Mknodat(dir, base, d.Mode, int(dev))
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return os.NewSyscallError("fstatat", err)
		}
		if st.Mode&unix.S_IFMT == d.Mode&unix.S_IFMT && st.Rdev == dev {
			err = nil // the image's, and it is the right one
		} else if err = unix.Unlinkat(dir, base, 0); err == nil {
			err = unix.Mknodat(dir, base, d.Mode, int(dev))
		}
	}
	if err == unix.EPERM {
		return s.bindDevice(d, dir, base)
	}
	if err != nil {
		return os.NewSyscallError("mknodat", err)
	}
	if d.UID|d.GID == 0 {
		return nil
	}
	return os.NewSyscallError("fchownat", unix.Fchownat(dir, base, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW))
}

// bindDevice shows the host's device file where none can be made.
func (s *stage) bindDevice(d *plan.Device, dir int, base string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, d.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("it cannot be made in a user namespace, nor taken from the host: %w", err)
	}
	defer unix.Close(tree)
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != d.Mode&unix.S_IFMT || st.Rdev != unix.Mkdev(d.Major, d.Minor) {
		return errors.New("the host has another device there, and a user namespace cannot make this one")
	}
	fd, err := unix.Openat(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	} else if err != unix.EEXIST {
		return os.NewSyscallError("openat", err)
	}
	target, err := inroot.Root(dir).OpenReal(base, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return attach(tree, target)
}
