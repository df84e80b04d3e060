package stage

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hvctl/hvctl/container/inroot"
	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// mount carries out one mount of the plan.
func (s *stage) mount(m *plan.Mount) error {
	switch m.Kind {
	case plan.FileSystem:
		return s.mountFS(m)
	case plan.Bind:
		return s.mountBind(m)
	case plan.Cgroup:
		return s.mountCgroup(m)
	}
	return fmt.Errorf("kind %d is unknown", m.Kind)
}

// mountFS mounts a new file system.
func (s *stage) mountFS(m *plan.Mount) error {
	opts := make([][2]string, 0, len(m.Options)+1)
	if m.Source != "" {
		opts = append(opts, [2]string{"source", m.Source})
	}
	for _, o := range m.Options {
		opts = append(opts, [2]string{o.Key, o.Value})
	}
	var target int
	var err error
	if m.Type == "proc" || m.Type == "sysfs" {
		target, err = s.realDir(m.Dest)
	} else {
		target, err = inroot.Root(s.root).MkdirAll(m.Dest, 0o755)
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	set := m.AttrSet
	// What is mounted inside still needs its mount points made.
	lateRO := m.Type == "tmpfs" && set&unix.MOUNT_ATTR_RDONLY != 0
	if lateRO {
		set &^= unix.MOUNT_ATTR_RDONLY
	}
	var modeOf *unix.Stat_t
	if m.Type == "tmpfs" {
		modeOf = new(unix.Stat_t)
		if err := unix.Fstat(target, modeOf); err != nil {
			return os.NewSyscallError("fstat", err)
		}
	}
	fd, err := newFS(m.Type, modeOf, set, opts...)
	if err != nil {
		return err
	}
	if m.CopyUp {
		if err := copyUp(target, fd); err != nil {
			return fmt.Errorf("tmpcopyup: %w", err)
		}
	}
	return s.place(m, fd, target, lateRO)
}

// place attaches fd on target and sets what has to be set afterwards.
func (s *stage) place(m *plan.Mount, fd, target int, lateRO bool) error {
	if err := attach(fd, target); err != nil {
		return err
	}
	for _, how := range m.Propagation {
		if err := setPropagation(fd, how); err != nil {
			return err
		}
	}
	if !lateRO {
		unix.Close(fd)
		return nil
	}
	dest := m.Dest
	s.later = append(s.later, func() error {
		defer unix.Close(fd)
		if err := setAttr(fd, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
			return fmt.Errorf("mount %s read-only: %w", dest, err)
		}
		return nil
	})
	return nil
}

// realDir opens a mount point no component of which is a symbolic link: a
// /proc that is somewhere else would be believed by everybody.
func (s *stage) realDir(name string) (int, error) {
	root := inroot.Root(s.root)
	fd, err := root.OpenReal(name, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		if fd, err = root.MkdirAll(name, 0o755); err != nil {
			return -1, err
		}
		unix.Close(fd)
		fd, err = root.OpenReal(name, unix.O_PATH|unix.O_DIRECTORY)
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return -1, fmt.Errorf("the image has something else than a directory there, or a symbolic link on the way: %w", err)
	}
	return fd, err
}

// newFS makes a file system that is mounted nowhere yet. like gives its root
// directory the mode and owner of the directory it will cover, unless an
// option says otherwise.
func newFS(kind string, like *unix.Stat_t, attr uint64, opts ...[2]string) (int, error) {
	fsfd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("file system %q: fsopen: %w", kind, err)
	}
	defer unix.Close(fsfd)
	for _, o := range opts {
		if o[0] == "mode" {
			like = nil
		}
		if o[1] == "" && o[0] != "source" {
			err = unix.FsconfigSetFlag(fsfd, o[0])
		} else {
			err = unix.FsconfigSetString(fsfd, o[0], o[1])
		}
		if err != nil {
			return -1, fmt.Errorf("file system %q: option %s: %w%s", kind, strings.TrimSuffix(o[0]+"="+o[1], "="), err, complaint(fsfd))
		}
	}
	if like != nil {
		if err := unix.FsconfigSetString(fsfd, "mode", fmt.Sprintf("%o", like.Mode&0o7777)); err != nil {
			return -1, fmt.Errorf("file system %q: mode: %w", kind, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, fmt.Errorf("file system %q: %w%s", kind, err, complaint(fsfd))
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return -1, fmt.Errorf("file system %q: fsmount: %w", kind, err)
	}
	return fd, nil
}

// complaint is what the kernel says in words about a file system's options.
func complaint(fsfd int) string {
	var b [256]byte
	n, err := unix.Read(fsfd, b[:])
	if err != nil || n < 3 {
		return ""
	}
	return " (" + strings.TrimSpace(string(b[2:n])) + ")"
}
