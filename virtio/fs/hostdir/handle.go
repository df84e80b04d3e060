package hostdir

import (
	"math"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// openFlags are those of a client's open that mean something here. O_DIRECT
// would ask for aligned buffers; the client's own cache is bypassed by it all
// the same.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME

// handle is an open file or directory.
type handle struct {
	node  uint64 // that it was opened by; 0: unknown, for it was loaded
	fd    int
	dirs  *dirReader // for directories
	stale bool       // its file was gone when it was to be opened again

	mu     sync.Mutex
	busy   int
	closed bool
}

// newHandle registers an open file; it owns h.fd only when it succeeds.
func (fs *FS) newHandle(h *handle) (uint64, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.handles) >= maxHandles {
		return 0, unix.EMFILE
	}
	fs.nextFH++
	fs.handles[fs.nextFH] = h
	return fs.nextFH, nil
}

// useHandle finds a handle and keeps it open until its release.
func (fs *FS) useHandle(id uint64) (*handle, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	h := fs.handles[id]
	if h == nil {
		return nil, unix.EBADF
	}
	if h.stale {
		return nil, unix.ESTALE
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy++
	return h, nil
}

// release ends a use.
func (h *handle) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy--
	h.reap()
}

// close closes the file when its last user is done.
func (h *handle) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.reap()
}

func (h *handle) reap() {
	if h.closed && h.busy == 0 && h.fd >= 0 {
		unix.Close(h.fd)
		h.fd = -1
	}
}

func (fs *FS) closeHandle(id uint64) {
	fs.mu.Lock()
	h := fs.handles[id]
	delete(fs.handles, id)
	fs.mu.Unlock()
	if h != nil {
		h.close()
	}
}

// open opens the file that n stands for. Only regular files: opening anything
// else can block, or act on a device of the host.
func (fs *FS) open(n *node, flags int) (int, error) {
	if !n.reg {
		return -1, unix.EPERM
	}
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0 {
		if err := fs.changes(); err != nil {
			return -1, err
		}
	}
	return unix.Open(n.path(), flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
}

func (fs *FS) openHandle(n *node, flags uint32) (uint64, error) {
	fd, err := fs.open(n, int(flags&openFlags))
	if err != nil {
		return 0, err
	}
	id, err := fs.newHandle(&handle{node: n.id, fd: fd})
	if err != nil {
		unix.Close(fd)
	}
	return id, err
}

func (fs *FS) openNode(id uint64, flags uint32) (uint64, error) {
	n, err := fs.use(id)
	if err != nil {
		return 0, err
	}
	defer fs.release(n)
	return fs.openHandle(n, flags)
}

// Open opens a regular file.
func (fs *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	var err error
	out.Fh, err = fs.openNode(in.NodeId, in.Flags)
	return status(err)
}

// Release closes a file.
func (fs *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { fs.closeHandle(in.Fh) }

// reading is a read that goes straight into the client's buffers.
type reading struct {
	h    *handle
	off  int64
	size int
}

// Size is the most that there will be.
func (r *reading) Size() int { return r.size }

// Bytes reads into a buffer of ours.
func (r *reading) Bytes(buf []byte) ([]byte, fuse.Status) {
	n, err := unix.Pread(r.h.fd, buf[:min(len(buf), r.size)], r.off)
	return buf[:max(n, 0)], status(err)
}

// Readv reads into the client's buffers.
func (r *reading) Readv(dst [][]byte) (int, fuse.Status) {
	n, err := unix.Preadv(r.h.fd, dst, r.off)
	return max(n, 0), status(err)
}

// Done ends the use of the file.
func (r *reading) Done() { r.h.release() }

// Read reads from a file; the file stays open until the result is done.
func (fs *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	if in.Offset > math.MaxInt64 {
		return nil, fuse.EINVAL
	}
	h, err := fs.useHandle(in.Fh)
	if err != nil {
		return nil, status(err)
	}
	return &reading{h, int64(in.Offset), int(in.Size)}, fuse.OK
}

// Write is never called: Writev answers.
func (fs *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return fs.Writev(nil, in, [][]byte{data})
}

// Writev writes the client's buffers as they are.
func (fs *FS) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if in.Offset > math.MaxInt64 {
		return 0, fuse.EINVAL
	}
	if err := fs.changes(); err != nil {
		return 0, status(err)
	}
	h, err := fs.useHandle(in.Fh)
	if err != nil {
		return 0, status(err)
	}
	defer h.release()
	n, err := unix.Pwritev(h.fd, data, int64(in.Offset))
	return uint32(max(n, 0)), status(err)
}

// Flush has nothing to do: what was written is with the host's kernel.
func (fs *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync makes a file durable.
func (fs *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, err := fs.useHandle(in.Fh)
	if err != nil {
		return status(err)
	}
	defer h.release()
	const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
	if in.FsyncFlags&dataOnly != 0 {
		return status(unix.Fdatasync(h.fd))
	}
	return status(unix.Fsync(h.fd))
}

// FsyncDir makes a directory durable.
func (fs *FS) FsyncDir(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return fs.Fsync(c, in) }

// Fallocate allocates, or with a mode punches holes.
func (fs *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if err := fs.changes(); err != nil {
		return status(err)
	}
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64 {
		return fuse.Status(unix.EFBIG)
	}
	h, err := fs.useHandle(in.Fh)
	if err != nil {
		return status(err)
	}
	defer h.release()
	return status(unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length)))
}

// Lseek finds data and holes; other positions are the client's own.
func (fs *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE || in.Offset > math.MaxInt64 {
		return fuse.EINVAL
	}
	h, err := fs.useHandle(in.Fh)
	if err != nil {
		return status(err)
	}
	defer h.release()
	off, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(max(off, 0))
	return status(err)
}

// CopyFileRange copies between two open files without the client's help.
func (fs *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if err := fs.changes(); err != nil {
		return 0, status(err)
	}
	if in.OffIn > math.MaxInt64 || in.OffOut > math.MaxInt64 {
		return 0, fuse.EINVAL
	}
	from, err := fs.useHandle(in.FhIn)
	if err != nil {
		return 0, status(err)
	}
	defer from.release()
	to, err := fs.useHandle(in.FhOut)
	if err != nil {
		return 0, status(err)
	}
	defer to.release()
	const most = 64 << 20 // a call's work is bounded; the client asks again
	offIn, offOut := int64(in.OffIn), int64(in.OffOut)
	n, err := unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, int(min(in.Len, most)), 0)
	return uint32(max(n, 0)), status(err)
}
