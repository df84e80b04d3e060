package hostdir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options say what to serve.
type Options struct {
	// Path is the directory, or one file: then the root directory shows only
	// this file. Symbolic links in Path itself are followed.
	Path string
	// ReadOnly refuses every change, whatever the client's own mount says.
	ReadOnly bool
	// Cache is how long the client may believe what it was told about names and
	// attributes; 0 is DefaultCache.
	Cache time.Duration
	// MaxNodes bounds how many files the client can hold at a time, each one
	// open descriptor; 0 is DefaultMaxNodes.
	MaxNodes int
	// Complete has Load refuse, with ErrLacks, what it would else make stale: the client is to
	// go on in a directory of the same content, or not at all.
	Complete bool
}

// DefaultCache is a second: what the host changes is seen by then.
const DefaultCache = time.Second

// DefaultMaxNodes leaves most of the usual limit of descriptors to others.
const DefaultMaxNodes = 200_000

// maxHandles bounds the open files and directories.
const maxHandles = 65_536

// rootID is the root directory's node, by the protocol.
const rootID = fuse.FUSE_ROOT_ID

// FS is one shared directory. All methods may be called from any goroutine.
type FS struct {
	fuse.RawFileSystem // answers what we do not do with ENOSYS

	opt     Options
	only    string // the one name in the root directory; empty: all
	maker   *maker
	ids     ids
	rootDev uint64

	mu       sync.Mutex
	attached map[string]*attached // nil: the root is a directory
	nodes    map[uint64]*node
	byFile   map[fileKey]*node
	handles  map[uint64]*handle
	devs     map[uint64]uint64 // an index for each file system below the root
	held     int               // descriptors of nodes
	nextID   uint64
	nextFH   uint64
}

// New opens the directory. Errors name it.
func New(o Options) (*FS, error) {
	if o.Cache == 0 {
		o.Cache = DefaultCache
	}
	if o.MaxNodes == 0 {
		o.MaxNodes = DefaultMaxNodes
	}
	fs := &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), opt: o, nextID: rootID, ids: ownIDs()}
	fd, err := unix.Open(o.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("shared directory %s: %w", o.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("shared directory %s: %w", o.Path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		unix.Close(fd)
		if fd, st, err = fs.parentOf(o.Path); err != nil {
			return nil, err
		}
	}
	v, err := viewOf(fd)
	if err == nil && v.sealed {
		err = errSealed
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("shared directory %s: %w", o.Path, err)
	}
	if fs.maker, err = newMaker(os.Geteuid() == 0); err != nil {
		unix.Close(fd)
		return nil, err
	}
	fs.rootDev = st.Dev
	fs.start(fd, &st, v)
	return fs, nil
}

var errSealed = errors.New("it lies on a file system of the kernel's own, such as proc or sysfs, which is not shared")

// parentOf opens the directory of the one file to be served.
func (fs *FS) parentOf(path string) (fd int, st unix.Stat_t, err error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return -1, st, fmt.Errorf("shared file %s: %w", path, err)
	}
	dir, name := filepath.Split(real)
	fs.only = name
	if fd, err = unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0); err != nil {
		return -1, st, fmt.Errorf("directory of the shared file %s: %w", path, err)
	}
	if err = unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, fmt.Errorf("directory of the shared file %s: %w", path, err)
	}
	return fd, st, nil
}

// start begins with nothing but the root.
func (fs *FS) start(fd int, st *unix.Stat_t, v view) {
	fs.nodes, fs.byFile, fs.handles, fs.devs = map[uint64]*node{}, map[fileKey]*node{}, map[uint64]*handle{}, map[uint64]uint64{}
	root := &node{id: rootID, fd: fd, ways: []way{{nil, v.mount, fd}}, file: keyOf(st, v), view: v, dir: true, lookups: 1}
	fs.nodes[rootID], fs.byFile[root.file], fs.held = root, root, 1
}

// Only is the one file's name in the root directory; empty when all is served.
func (fs *FS) Only() string { return fs.only }

// Reset forgets what the client holds: its mount is gone.
// Preconditions: no other call is running.
func (fs *FS) Reset() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.drop()
}

// drop closes everything but the root.
func (fs *FS) drop() {
	for _, h := range fs.handles {
		h.close()
	}
	for id, n := range fs.nodes {
		if id != rootID {
			fs.remove(n)
		}
	}
	clear(fs.handles)
}

// Close ends the service. Preconditions: no other call is running.
func (fs *FS) Close() error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.drop()
	for _, a := range fs.attached {
		unix.Close(a.fd)
	}
	clear(fs.attached)
	if root := fs.nodes[rootID]; root != nil {
		fs.remove(root)
		close(fs.maker.jobs)
	}
	return nil
}

// InUse counts the nodes and handles that the client holds, the root included.
func (fs *FS) InUse() (nodes, handles int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.nodes), len(fs.handles)
}

// String names the directory.
func (fs *FS) String() string { return fs.opt.Path }

// status turns an error into the protocol's number.
func status(err error) fuse.Status {
	var no unix.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.As(err, &no):
		return fuse.Status(no)
	}
	return fuse.EIO
}

// changes refuses them on a read-only share.
func (fs *FS) changes() error {
	if fs.opt.ReadOnly {
		return unix.EROFS
	}
	return nil
}
