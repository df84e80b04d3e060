package inroot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// procRootInode is the inode number of the root of every procfs.
const procRootInode = 1

// Proc is a procfs that is mounted nowhere: the one of the calling process's
// PID namespace.
type Proc int

// OpenProc makes one. Where the kernel does not let us (a PID namespace that
// belongs to somebody else), it is a private copy of the /proc mount, verified.
func OpenProc() (Proc, error) {
	fd, err := newProc()
	if err != nil {
		var cerr error
		if fd, cerr = copyProc(); cerr != nil {
			return -1, fmt.Errorf("private /proc: %w", errors.Join(err, cerr))
		}
	}
	return Proc(fd), nil
}

func newProc() (int, error) {
	fsfd, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	return fd, os.NewSyscallError("fsmount", err)
}

func copyProc() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		if fd, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return -1, os.NewSyscallError("open /proc", err)
		}
	}
	var st unix.Stat_t
	var fst unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &fst)); err != nil || fst.Type != unix.PROC_SUPER_MAGIC || st.Ino != procRootInode {
		unix.Close(fd)
		return -1, errors.Join(errors.New("/proc is not the root of a procfs"), err)
	}
	return fd, nil
}

// Write writes data to the file name, which is relative to the procfs, in one
// write. There are no links on the way: "self" is one, so give a number.
func (p Proc) Write(name, data string) error {
	fd, err := openat2(int(p), name, unix.O_WRONLY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var fst unix.Statfs_t
	if err := unix.Fstatfs(fd, &fst); err != nil || fst.Type != unix.PROC_SUPER_MAGIC {
		return fmt.Errorf("%s: not a file of procfs (%w)", name, err)
	}
	if _, err := unix.Write(fd, []byte(data)); err != nil {
		return &os.PathError{Op: "write", Path: "/proc/" + name, Err: err}
	}
	return nil
}

// Close frees it.
func (p Proc) Close() { unix.Close(int(p)) }
