package upper

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names of entries that say that something is not there.
const (
	removed = ".wh."         // and the name of what is not
	opaque  = ".wh..wh..opq" // in a directory: nothing of the image's
)

// xattrRecord begins the PAX records that hold extended attributes.
const xattrRecord = "SCHILY.xattr."

// maxDepth bounds how deep a tree may be: each level holds a descriptor.
const maxDepth = 512

// Marks are where overlayfs keeps its own attributes: Trusted, or Users when it was mounted
// with userxattr, in a user namespace.
type Marks string

// The two.
const (
	Trusted Marks = "trusted.overlay."
	Users   Marks = "user.overlay."
)

// harmless are marks without a meaning for the layer's content.
var harmless = map[string]bool{"origin": true, "impure": true, "nlink": true, "upper": true, "uuid": true, "protattr": true}

// Pack writes the layer in dir to w.
func Pack(w io.Writer, dir string, m Marks) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	p := &packer{w: tar.NewWriter(w), marks: m, linked: map[uint64]string{}}
	if err := p.children(f, ".", 0); err != nil {
		return fmt.Errorf("writable layer: %w", err)
	}
	return p.w.Close()
}

type packer struct {
	w      *tar.Writer
	marks  Marks
	linked map[uint64]string // by inode: the first name of files that have several
}

// children writes what is in the directory d, which the stream calls name.
func (p *packer) children(d *os.File, name string, depth int) error {
	if depth == maxDepth {
		return fmt.Errorf("%s: more than %d directories deep", name, maxDepth)
	}
	for {
		names, err := d.Readdirnames(1024)
		for _, n := range names {
			if err := p.entry(d, n, path.Join(name, n), depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// entry writes one thing and what is below it.
func (p *packer) entry(d *os.File, base, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if strings.HasPrefix(base, removed) {
		return fmt.Errorf("%s: no layer can have a name that begins with %s; remove the file", name, removed)
	}
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.directory(d, base, h, depth)
	case unix.S_IFREG:
		return p.file(d, base, h, &st)
	case unix.S_IFLNK:
		var b [unix.PathMax]byte
		n, err := unix.Readlinkat(int(d.Fd()), base, b[:])
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(b[:n])
		return p.w.WriteHeader(h)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
		return p.w.WriteHeader(h)
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return p.w.WriteHeader(&tar.Header{Name: path.Join(path.Dir(name), removed+base), Typeflag: tar.TypeReg, Mode: 0o600, Format: tar.FormatPAX})
		}
	}
	return fmt.Errorf("%s: is a device, which does not go along; remove it", name)
}

func (p *packer) directory(d *os.File, base string, h *tar.Header, depth int) error {
	f, err := open(d, base, h.Name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	hides, err := p.attributes(f, h)
	if err != nil {
		return err
	}
	name := h.Name
	h.Typeflag, h.Name = tar.TypeDir, name+"/"
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	if hides {
		if err := p.w.WriteHeader(&tar.Header{Name: path.Join(name, opaque), Typeflag: tar.TypeReg, Mode: 0o600, Format: tar.FormatPAX}); err != nil {
			return err
		}
	}
	return p.children(f, name, depth+1)
}

func (p *packer) file(d *os.File, base string, h *tar.Header, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		if first, ok := p.linked[st.Ino]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return p.w.WriteHeader(h)
		}
		p.linked[st.Ino] = h.Name
	}
	f, err := open(d, base, h.Name, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := p.attributes(f, h); err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(p.w, io.LimitReader(f, st.Size))
	if err == nil && n < st.Size {
		err = fmt.Errorf("%s: became shorter while it was packed", h.Name)
	}
	return err
}

// attributes puts those of f into h, and tells whether it is a directory that hides the
// image's.
func (p *packer) attributes(f *os.File, h *tar.Header) (hides bool, err error) {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(f.Fd()), names)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "listxattr", Path: h.Name, Err: err}
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		mark, ours := strings.CutPrefix(name, string(p.marks))
		if name == "" || !ours && !carried(name) || harmless[mark] {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(int(f.Fd()), name, value)
		if err != nil {
			return false, &fs.PathError{Op: "getxattr " + name, Path: h.Name, Err: err}
		}
		switch {
		case !ours:
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[xattrRecord+name] = string(value[:n])
		case mark == "opaque" && string(value[:n]) == "y":
			hides = true
		default:
			return false, fmt.Errorf("%s: has the attribute %s, which cannot go along", h.Name, name)
		}
	}
	return hides, nil
}

// carried tells whether an attribute goes along: those that mean the same everywhere, and
// that overlayfs does not read as its own.
func carried(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, string(Users))
}

// open opens what is called base in d. A symbolic link is an error.
func open(d *os.File, base, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(d.Fd()), base, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
