package hostdir

import (
	"math"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// attr fills in what the client sees. It sees one file system: the inode
// numbers of others that are mounted below the directory get an index on top,
// so that two files are not taken for links of each other.
func (fs *FS) attr(st *unix.Stat_t, a *fuse.Attr) {
	*a = fuse.Attr{
		Ino: st.Ino, Size: uint64(st.Size), Blocks: uint64(st.Blocks), Mode: st.Mode, Nlink: uint32(st.Nlink),
		Owner: fs.ids.shown(st.Uid, st.Gid), Rdev: clientDev(st.Rdev), Blksize: uint32(st.Blksize),
		Atime: uint64(st.Atim.Sec), Atimensec: uint32(st.Atim.Nsec), Mtime: uint64(st.Mtim.Sec), Mtimensec: uint32(st.Mtim.Nsec),
		Ctime: uint64(st.Ctim.Sec), Ctimensec: uint32(st.Ctim.Nsec),
	}
	a.Ino = fs.inode(st.Dev, st.Ino)
}

func (fs *FS) inode(dev, ino uint64) uint64 {
	if dev == fs.rootDev {
		return ino
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	i, ok := fs.devs[dev]
	if !ok {
		if len(fs.devs) >= math.MaxUint16 {
			clear(fs.devs) // somebody mounts all day long; numbers may repeat
		}
		i = uint64(len(fs.devs) + 1)
		fs.devs[dev] = i
	}
	return ino ^ i<<48
}

// clientDev is a device number as the protocol carries it: 32 bits, the
// kernel's "new" encoding.
func clientDev(rdev uint64) uint32 {
	major, minor := unix.Major(rdev), unix.Minor(rdev)
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// GetAttr reports on a file.
func (fs *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, err := fs.use(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer fs.release(n)
	return status(fs.attrOut(n, out))
}

func (fs *FS) attrOut(n *node, out *fuse.AttrOut) error {
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return err
	}
	out.SetTimeout(fs.opt.Cache)
	fs.attr(&st, &out.Attr)
	return nil
}

// SetAttr changes mode, owner, size and times, in the order in which each
// leaves the others alone: a change of owner clears set-user-ID.
func (fs *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if err := fs.changes(); err != nil {
		return status(err)
	}
	n, err := fs.use(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer fs.release(n)
	if n.view.sealed {
		return fuse.EPERM
	}
	for _, set := range []func(*node, *fuse.SetAttrIn) error{fs.setOwner, fs.setMode, fs.setSize, fs.setTimes} {
		if err := set(n, in); err != nil {
			return status(err)
		}
	}
	return status(fs.attrOut(n, out))
}

func (fs *FS) setOwner(n *node, in *fuse.SetAttrIn) error {
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	if !setUID && !setGID {
		return nil
	}
	keep := func(id uint32, set bool) int {
		if !set {
			return -1
		}
		return int(id)
	}
	u, g, err := fs.ids.chown(keep(uid, setUID), keep(gid, setGID))
	if err != nil {
		return err
	}
	return unix.Fchownat(n.fd, "", u, g, unix.AT_EMPTY_PATH)
}

func (fs *FS) setMode(n *node, in *fuse.SetAttrIn) error {
	mode, ok := in.GetMode()
	if !ok {
		return nil
	}
	return unix.Fchmodat(unix.AT_FDCWD, n.path(), mode, 0)
}

func (fs *FS) setSize(n *node, in *fuse.SetAttrIn) error {
	size, ok := in.GetSize()
	if !ok {
		return nil
	}
	if size > math.MaxInt64 {
		return unix.EFBIG
	}
	if id, ok := in.GetFh(); ok {
		h, err := fs.useHandle(id)
		if err != nil {
			return err
		}
		defer h.release()
		return unix.Ftruncate(h.fd, int64(size))
	}
	fd, err := fs.open(n, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Ftruncate(fd, int64(size))
}

func (fs *FS) setTimes(n *node, in *fuse.SetAttrIn) error {
	const both = fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if in.Valid&both == 0 {
		return nil
	}
	ts := [2]unix.Timespec{
		timespec(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		timespec(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, n.path(), ts[:], 0)
}

func timespec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case nsec >= uint32(time.Second):
		return unix.Timespec{Sec: int64(sec)}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}
