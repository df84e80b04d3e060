package stage

import (
	"errors"
	"fmt"
	"os"

	"github.com/hvctl/hvctl/container/inroot"
	"golang.org/x/sys/unix"
)

const devptsMagic = 0x1cd1 // DEVPTS_SUPER_MAGIC

// console makes the terminal in the container's own devpts, sends its master
// away and takes the other end as standard streams.
func (s *stage) console() error {
	pr := s.plan.Process
	if pr == nil || !pr.Terminal {
		return nil
	}
	root := inroot.Root(s.root)
	master, peer, err := openPTY(root)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer unix.Close(master)
	defer unix.Close(peer)
	if pr.Columns|pr.Rows != 0 {
		ws := unix.Winsize{Col: uint16(pr.Columns), Row: uint16(pr.Rows)}
		if err := unix.IoctlSetWinsize(peer, unix.TIOCSWINSZ, &ws); err != nil {
			return fmt.Errorf("process.consoleSize: %w", err)
		}
	}
	if !s.plan.Root.Remain {
		if err := bindConsole(root, peer); err != nil {
			return fmt.Errorf("/dev/console: %w", err)
		}
	}
	// The name is for show: whoever receives the descriptor uses that.
	if err := unix.Sendmsg(int(s.plan.ConsoleFD), []byte("/dev/ptmx"), unix.UnixRights(master), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	unix.Close(int(s.plan.ConsoleFD))
	for fd := range 3 {
		if err := unix.Dup3(peer, fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("take the terminal: %w", err)
	}
	return unix.Fchown(0, int(pr.UID), -1)
}

// openPTY opens a pair through a ptmx that is verified to be a devpts's own;
// the peer is opened by the master, not by name.
func openPTY(root inroot.Root) (master, peer int, err error) {
	master, err = root.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		return -1, -1, fmt.Errorf("the container needs a devpts at /dev/pts: %w", err)
	}
	var fst unix.Statfs_t
	err = unix.Fstatfs(master, &fst)
	if err == nil && fst.Type != devptsMagic {
		err = errors.New("/dev/pts/ptmx is not a devpts's")
	}
	if err == nil {
		err = inroot.CheckDevice(master, 5, 2)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		peer, err = ptyPeer(master)
	}
	if err != nil {
		unix.Close(master)
		return -1, -1, err
	}
	return master, peer, nil
}

func ptyPeer(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, os.NewSyscallError("TIOCGPTPEER", errno)
	}
	return int(fd), nil
}

// bindConsole mounts the terminal on /dev/console. A link the image may have
// there is replaced, not followed.
func bindConsole(root inroot.Root, peer int) error {
	dir, err := root.MkdirAll("/dev", 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, "console", unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o620)
	switch {
	case err == nil:
		unix.Close(fd)
	case err != unix.EEXIST:
		return os.NewSyscallError("openat", err)
	}
	target, err := inroot.Root(dir).OpenReal("console", unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if isDir, err := inroot.IsDir(target); err != nil || isDir {
		return errors.Join(errors.New("the image has a directory there"), err)
	}
	tree, err := unix.OpenTree(peer, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	return attach(tree, target)
}
