package hostdir

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const permissions = 0o7777

// make is the common part of everything that adds a name to a directory.
func (fs *FS) make(h *fuse.InHeader, name string, out *fuse.EntryOut, add func(dir *node) error) error {
	if err := fs.changes(); err != nil {
		return err
	}
	dir, err := fs.useDir(h.NodeId, name)
	if err != nil {
		return err
	}
	defer fs.release(dir)
	if err := fs.maker.do(h.Owner, func() error { return add(dir) }); err != nil {
		return err
	}
	return fs.lookup(dir, name, out)
}

// Mkdir makes a directory.
func (fs *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return status(fs.make(&in.InHeader, name, out, func(dir *node) error {
		return unix.Mkdirat(dir.fd, name, in.Mode&permissions)
	}))
}

// Mknod makes a regular file, a FIFO, a socket, or a whiteout (a character
// device 0:0, which opens nothing). Device nodes are refused: on the host they
// would be real.
func (fs *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFCHR:
		if in.Rdev != 0 {
			return fuse.EPERM
		}
	default:
		return fuse.EPERM
	}
	return status(fs.make(&in.InHeader, name, out, func(dir *node) error {
		return unix.Mknodat(dir.fd, name, in.Mode&(unix.S_IFMT|permissions), 0)
	}))
}

// Symlink makes a symbolic link; what it says is the client's affair.
func (fs *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return status(fs.make(h, name, out, func(dir *node) error {
		return unix.Symlinkat(target, dir.fd, name)
	}))
}

// Link gives a file one more name.
func (fs *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n, err := fs.use(in.Oldnodeid)
	if err != nil {
		return status(err)
	}
	defer fs.release(n)
	if n.view.sealed {
		return fuse.EPERM
	}
	in.Owner = fuse.Owner{} // a link has no owner of its own
	return status(fs.make(&in.InHeader, name, out, func(dir *node) error {
		return unix.Linkat(unix.AT_FDCWD, fs.in(n, dir.view.mount), dir.fd, name, unix.AT_SYMLINK_FOLLOW)
	}))
}

// Create makes and opens a file. What is there already is opened like any
// other file, so that it is looked at first.
func (fs *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	fd := -1
	err := fs.make(&in.InHeader, name, &out.EntryOut, func(dir *node) (err error) {
		flags := in.Flags&openFlags | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err = unix.Openat(dir.fd, name, int(flags), in.Mode&permissions)
		if err == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
			return nil
		}
		return err
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return status(err)
	}
	if fd >= 0 {
		if out.Fh, err = fs.newHandle(&handle{node: out.NodeId, fd: fd}); err != nil {
			unix.Close(fd)
		}
	} else {
		out.Fh, err = fs.openNode(out.NodeId, in.Flags)
	}
	if err != nil {
		fs.Forget(out.NodeId, 1)
	}
	return status(err)
}

// Unlink removes a name that is not a directory's.
func (fs *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(fs.unlink(h, name, 0))
}

// Rmdir removes an empty directory.
func (fs *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(fs.unlink(h, name, unix.AT_REMOVEDIR))
}

func (fs *FS) unlink(h *fuse.InHeader, name string, flags int) error {
	if err := fs.changes(); err != nil {
		return err
	}
	dir, err := fs.useDir(h.NodeId, name)
	if err != nil {
		return err
	}
	defer fs.release(dir)
	return unix.Unlinkat(dir.fd, name, flags)
}

// Rename moves a name, also with RENAME_NOREPLACE, _EXCHANGE and _WHITEOUT.
func (fs *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if err := fs.changes(); err != nil {
		return status(err)
	}
	from, err := fs.useDir(in.NodeId, oldName)
	if err != nil {
		return status(err)
	}
	defer fs.release(from)
	to, err := fs.useDir(in.Newdir, newName)
	if err != nil {
		return status(err)
	}
	defer fs.release(to)
	const known = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT
	if in.Flags&^known != 0 {
		return fuse.EINVAL
	}
	return status(unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags)))
}
