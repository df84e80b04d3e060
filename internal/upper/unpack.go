package upper

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxEntries bounds what a stream may bring: each entry takes memory of the kernel's.
const maxEntries = 1 << 20

// Unpack puts the layer that r is into dir, which is empty and not mounted as a layer yet.
// After an error what has come is there still.
func Unpack(r io.Reader, dir string, m Marks) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{root: root, marks: m}
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return u.finish()
		case err != nil:
			return fmt.Errorf("writable layer: tar stream: %w", err)
		case n == maxEntries:
			return fmt.Errorf("writable layer: more than %d files", maxEntries)
		}
		if err := u.entry(h, t); err != nil {
			return fmt.Errorf("writable layer: %w", err)
		}
	}
}

type unpacker struct {
	root  *os.Root
	marks Marks
	dirs  []directory
}

// directory is what a directory gets last: its mode may forbid what is to come, and what
// comes changes its time. No more of a header is kept, which may be large.
type directory struct {
	name string
	mode fs.FileMode
	time time.Time
}

// finish gives directories, the deepest first, their modes and times.
func (u *unpacker) finish() error {
	for _, d := range slices.Backward(u.dirs) {
		if err := errors.Join(u.root.Chmod(d.name, d.mode), u.root.Chtimes(d.name, d.time, d.time)); err != nil {
			return fmt.Errorf("writable layer: %w", err)
		}
	}
	return nil
}

// clean refuses names that are not below the top.
func clean(name string) (string, error) {
	c := path.Clean(name)
	if name == "" || c == "." || strings.HasPrefix(c, "/") || c == ".." || strings.HasPrefix(c, "../") || strings.IndexByte(c, 0) >= 0 {
		return "", fmt.Errorf("the name %q is not below its top", name)
	}
	return c, nil
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) (err error) {
	if h.Name, err = clean(h.Name); err != nil {
		return err
	}
	base := path.Base(h.Name)
	if strings.HasPrefix(base, removed) {
		return u.missing(path.Dir(h.Name), base)
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") { // a few bytes that become terabytes
			return fmt.Errorf("%s: sparse files are not taken", h.Name)
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.root.Mkdir(h.Name, 0o700); err != nil {
			return err
		}
		u.dirs = append(u.dirs, directory{strings.Clone(h.Name), modeOf(h), h.ModTime})
		f, err := u.root.Open(h.Name)
		if err != nil {
			return err
		}
		return errors.Join(f.Chown(h.Uid, h.Gid), attribute(f, h), f.Close())
	case tar.TypeReg:
		return u.file(h, r)
	case tar.TypeSymlink:
		return errors.Join(u.root.Symlink(h.Linkname, h.Name), u.root.Lchown(h.Name, h.Uid, h.Gid))
	case tar.TypeLink:
		target, err := clean(h.Linkname)
		if err != nil {
			return err
		}
		return u.root.Link(target, h.Name)
	case tar.TypeFifo:
		if err := u.node(h.Name, unix.S_IFIFO); err != nil {
			return err
		}
		return errors.Join(u.root.Lchown(h.Name, h.Uid, h.Gid), u.root.Chmod(h.Name, modeOf(h)), u.root.Chtimes(h.Name, h.ModTime, h.ModTime))
	}
	return fmt.Errorf("%s is of the type %q; only files, directories, links and pipes are taken", h.Name, h.Typeflag)
}

// missing makes the mark that something of the image is not there.
func (u *unpacker) missing(dir, base string) error {
	if base == opaque {
		f, err := u.root.Open(dir)
		if err != nil {
			return err
		}
		return errors.Join(os.NewSyscallError("setxattr", unix.Fsetxattr(int(f.Fd()), string(u.marks)+"opaque", []byte("y"), 0)), f.Close())
	}
	name, err := clean(strings.TrimPrefix(base, removed))
	if err != nil || strings.HasPrefix(name, removed) {
		return fmt.Errorf("%q removes nothing", path.Join(dir, base))
	}
	return u.node(path.Join(dir, name), unix.S_IFCHR) // number 0:0
}

// node makes a special file; which, kind says.
func (u *unpacker) node(name string, kind uint32) error {
	d, err := u.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	err = unix.Mknodat(int(d.Fd()), path.Base(name), kind|0o600, 0)
	if err != nil {
		err = &fs.PathError{Op: "mknod", Path: name, Err: err}
	}
	return errors.Join(err, d.Close())
}

func (u *unpacker) file(h *tar.Header, r io.Reader) error {
	f, err := u.root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	// The owner first: a change of it takes away special modes, and capabilities.
	err = errors.Join(err, f.Chown(h.Uid, h.Gid), f.Chmod(modeOf(h)), attribute(f, h), f.Close())
	if err != nil {
		return err
	}
	return u.root.Chtimes(h.Name, h.ModTime, h.ModTime)
}

// attribute gives f those of h that may come.
func attribute(f *os.File, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok {
			continue
		}
		if !carried(name) {
			return fmt.Errorf("%s: the attribute %q is not taken", h.Name, name)
		}
		if err := unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0); err != nil {
			return &fs.PathError{Op: "setxattr " + name, Path: h.Name, Err: err}
		}
	}
	return nil
}

func modeOf(h *tar.Header) fs.FileMode {
	m := fs.FileMode(h.Mode & 0o777)
	for bit, flag := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if h.Mode&bit != 0 {
			m |= flag
		}
	}
	return m
}
