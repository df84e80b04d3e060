package hostdir

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// view is what the mount that a file was reached through says of it.
type view struct {
	mount    uint64 // statx(2), stx_mnt_id; no other mount has it while the file is open
	readOnly bool
	// sealed is a mount of the kernel's own: see servable. A directory of it is
	// shown empty.
	sealed bool
}

// errNoMounts says that mounts cannot be told apart.
var errNoMounts = errors.New("this kernel does not say which mount a file is in; Linux 5.8 or newer does")

func mountOf(fd int) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, os.NewSyscallError("statx", err)
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return 0, errNoMounts
	}
	return st.Mnt_id, nil
}

// viewOf is the view of an open file.
func viewOf(fd int) (view, error) {
	id, err := mountOf(fd)
	if err != nil {
		return view{}, err
	}
	return viewIn(fd, id)
}

func viewIn(fd int, mount uint64) (view, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return view{}, os.NewSyscallError("fstatfs", err)
	}
	return view{mount: mount, readOnly: st.Flags&unix.ST_RDONLY != 0, sealed: !servable[uint32(st.Type)]}, nil
}

// below is the view of what was opened in a directory of view v: the same, unless
// something is mounted there.
func (v view) below(fd int) (view, error) {
	id, err := mountOf(fd)
	if err != nil || id == v.mount {
		return v, err
	}
	return viewIn(fd, id)
}
