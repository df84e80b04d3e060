package hostdir

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Only the user namespace is passed on: trusted, security and system
// attributes mean something to the host's kernel (xattr(7)).
const xattrPrefix = "user."

// maxXattr is the kernel's own bound on a value and on a list.
const maxXattr = 64 << 10

func (fs *FS) xattrNode(h *fuse.InHeader, attr string) (*node, error) {
	if !strings.HasPrefix(attr, xattrPrefix) {
		return nil, unix.EOPNOTSUPP
	}
	n, err := fs.use(h.NodeId)
	if err != nil {
		return nil, err
	}
	if !n.reg && !n.dir || n.view.sealed {
		fs.release(n)
		return nil, unix.EPERM
	}
	return n, nil
}

// GetXAttr reads an attribute, or with an empty dest says how large it is.
func (fs *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	n, err := fs.xattrNode(h, attr)
	if err != nil {
		return 0, status(err)
	}
	defer fs.release(n)
	size, err := unix.Getxattr(n.path(), attr, dest)
	return uint32(max(size, 0)), status(err)
}

// ListXAttr lists the attributes that GetXAttr would read.
func (fs *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, err := fs.use(h.NodeId)
	if err != nil {
		return 0, status(err)
	}
	defer fs.release(n)
	if n.view.sealed {
		return 0, fuse.OK
	}
	all := make([]byte, maxXattr)
	size, err := unix.Listxattr(n.path(), all)
	if err != nil {
		return 0, status(err)
	}
	var list []byte
	for name := range bytes.SplitSeq(all[:size], []byte{0}) {
		if strings.HasPrefix(string(name), xattrPrefix) {
			list = append(append(list, name...), 0)
		}
	}
	if len(dest) < len(list) {
		return uint32(len(list)), fuse.Status(unix.ERANGE)
	}
	return uint32(copy(dest, list)), fuse.OK
}

// SetXAttr sets an attribute.
func (fs *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if err := fs.changes(); err != nil {
		return status(err)
	}
	n, err := fs.xattrNode(&in.InHeader, attr)
	if err != nil {
		return status(err)
	}
	defer fs.release(n)
	return status(unix.Setxattr(n.path(), attr, data, int(in.Flags)))
}

// RemoveXAttr removes an attribute.
func (fs *FS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	if err := fs.changes(); err != nil {
		return status(err)
	}
	n, err := fs.xattrNode(h, attr)
	if err != nil {
		return status(err)
	}
	defer fs.release(n)
	return status(unix.Removexattr(n.path(), attr))
}
