package seal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Self opens the protected binary. The descriptor is close-on-exec and good
// for execveat(2) only.
func Self() (*os.File, error) {
	f, err := overlay()
	if err == nil {
		return f, nil
	}
	f, merr := memfd()
	if merr != nil {
		return nil, fmt.Errorf("protect the runtime's binary: %w", errors.Join(err, merr))
	}
	return f, nil
}

// Sealed says whether the process already runs from a protected binary.
func Sealed() bool {
	fd, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil {
		return got&seals == seals
	}
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC && os.Getenv(marker) == "1"
}

// marker says that the overlay the binary is in is ours: a system's root may
// be an overlay, too, and a writable one.
const marker = "_HVCTL_OCI_SEALED"

// Exec replaces the process by itself, run from the protected binary, with the
// same arguments. It returns only on failure.
func Exec() error {
	f, err := Self()
	if err != nil {
		return err
	}
	return unix.Exec("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), os.Args, append(os.Environ(), marker+"=1"))
}

// overlay opens the binary through a detached read-only overlay of the folder
// it is in.
func overlay() (*os.File, error) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	var own, seen unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &own); err != nil {
		return nil, os.NewSyscallError("stat", err)
	}
	// An overlay without an upper layer wants two lower ones.
	second, err := fsMount("tmpfs", [2]string{"size", "0"})
	if err != nil {
		return nil, err
	}
	defer unix.Close(second)
	dir := strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(filepath.Dir(exe))
	layers := dir + ":/proc/self/fd/" + strconv.Itoa(second)
	mnt, err := fsMount("overlay", [2]string{"lowerdir", layers})
	if err != nil {
		return nil, err
	}
	defer unix.Close(mnt)
	fd, err := unix.Openat(mnt, filepath.Base(exe), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	if err := unix.Fstat(fd, &seen); err != nil || seen.Size != own.Size || seen.Mtim != own.Mtim || seen.Mode != own.Mode {
		unix.Close(fd)
		return nil, errors.New("the binary was replaced meanwhile")
	}
	return os.NewFile(uintptr(fd), "self"), nil
}

func fsMount(kind string, opts ...[2]string) (int, error) {
	fsfd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen "+kind, err)
	}
	defer unix.Close(fsfd)
	for _, o := range opts {
		if err := unix.FsconfigSetString(fsfd, o[0], o[1]); err != nil {
			return -1, os.NewSyscallError("fsconfig "+kind, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, os.NewSyscallError("fsconfig "+kind, err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV)
	return fd, os.NewSyscallError("fsmount "+kind, err)
}

// memfd copies the binary into memory and seals it.
func memfd() (*os.File, error) {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer in.Close()
	fd, err := unix.MemfdCreate("self", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("self", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	out := os.NewFile(uintptr(fd), "self")
	_, err = io.Copy(out, in)
	if err == nil {
		_, err = unix.FcntlInt(out.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}
