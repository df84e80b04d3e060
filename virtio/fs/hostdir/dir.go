package hostdir

import (
	"encoding/binary"
	"math"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// dirReader reads an open directory.
type dirReader struct {
	mu  sync.Mutex
	buf [32 << 10]byte
}

// OpenDir opens a directory for reading.
func (fs *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, err := fs.use(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer fs.release(n)
	if n.view.sealed {
		out.Fh, err = fs.newHandle(&handle{node: n.id, fd: -1, dirs: &dirReader{}})
		return status(err)
	}
	fd, err := unix.Openat(n.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return status(err)
	}
	if out.Fh, err = fs.newHandle(&handle{node: n.id, fd: fd, dirs: &dirReader{}}); err != nil {
		unix.Close(fd)
	}
	return status(err)
}

// ReleaseDir closes a directory.
func (fs *FS) ReleaseDir(in *fuse.ReleaseIn) { fs.closeHandle(in.Fh) }

// entry is one of a directory's.
type entry struct {
	name string
	ino  uint64
	next uint64 // position after it
	kind uint32 // S_IFMT bits
}

// readDir calls add for the entries from position off on until it returns
// false or the directory ends.
func (fs *FS) readDir(in *fuse.ReadIn, add func(entry) bool) error {
	if in.Offset > math.MaxInt64 {
		return unix.EINVAL
	}
	h, err := fs.useHandle(in.Fh)
	if err != nil {
		return err
	}
	defer h.release()
	switch {
	case h.dirs == nil:
		return unix.ENOTDIR
	case h.fd < 0: // sealed
		return nil
	}
	h.dirs.mu.Lock()
	defer h.dirs.mu.Unlock()
	if _, err := unix.Seek(h.fd, int64(in.Offset), unix.SEEK_SET); err != nil {
		return err
	}
	for {
		n, err := unix.Getdents(h.fd, h.dirs.buf[:])
		if n <= 0 || err != nil {
			return err
		}
		for rest := h.dirs.buf[:n]; len(rest) > 0; {
			var e entry
			if e, rest, err = parseEntry(rest); err != nil {
				return err
			}
			if fs.only != "" && e.name != fs.only && e.name != "." && e.name != ".." {
				continue
			}
			if !add(e) {
				return nil
			}
		}
	}
}

// parseEntry takes one struct linux_dirent64 (getdents64(2)) off b.
func parseEntry(b []byte) (e entry, rest []byte, err error) {
	const head = 19 // d_ino, d_off, d_reclen, d_type
	if len(b) < head {
		return e, nil, unix.EIO
	}
	size := int(binary.NativeEndian.Uint16(b[16:]))
	if size < head || size > len(b) {
		return e, nil, unix.EIO
	}
	name := b[head:size]
	for i, c := range name {
		if c == 0 {
			name = name[:i]
			break
		}
	}
	e = entry{
		name: string(name), ino: binary.NativeEndian.Uint64(b), next: binary.NativeEndian.Uint64(b[8:]), kind: uint32(b[18]) << 12,
	}
	return e, b[size:], nil
}

// ReadDir lists a directory.
func (fs *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return status(fs.readDir(in, func(e entry) bool {
		return out.AddDirEntry(fuse.DirEntry{Mode: e.kind, Name: e.name, Ino: e.ino, Off: e.next})
	}))
}

// ReadDirPlus lists a directory and looks every entry up. What cannot be
// looked up, or is gone by now, is listed without.
func (fs *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir, err := fs.use(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer fs.release(dir)
	return status(fs.readDir(in, func(e entry) bool {
		slot := out.AddDirLookupEntry(fuse.DirEntry{Mode: e.kind, Name: e.name, Ino: e.ino, Off: e.next})
		if slot == nil {
			return false
		}
		if e.name != "." && e.name != ".." && dir.dir {
			var found fuse.EntryOut
			if fs.lookup(dir, e.name, &found) == nil {
				*slot = found
			}
		}
		return true
	}))
}
