package archive

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

	"golang.org/x/sys/unix"
)

// Options of Unpack.
type Options struct {
	// Keep keeps owners, and the set-user-ID, set-group-ID and sticky bits;
	// otherwise files belong to whoever unpacks.
	Keep bool
	// Directory says that the destination has to be a directory that exists:
	// the stream is a user's own, with any number of names at its top.
	Directory bool
}

// Unpack puts the tar stream r where dest says in root. A dest that is a
// directory gets the stream's top in it; another, or one that does not exist in
// a directory that does, is what the top is called there. It reads r to its
// end. Nothing of the stream lands outside of that directory.
func Unpack(r io.Reader, root *Root, dest string, o Options) (err error) {
	u := &unpacker{o: o}
	defer u.close()
	// What has come of a stream that breaks off has its modes, too.
	defer func() { err = errors.Join(err, u.finish()) }()
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("tar stream: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		if u.root == nil {
			if err := u.aim(root, dest, name, h.Typeflag == tar.TypeDir); err != nil {
				return err
			}
		}
		if err := u.entry(h, name, t); err != nil {
			return err
		}
	}
	if u.root == nil {
		return errors.New("the tar stream is empty")
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return nil
}

// cleanName refuses names that are not below the stream's top.
func cleanName(name string) (string, error) {
	c := path.Clean(name)
	if name == "" || strings.HasPrefix(c, "/") || c == ".." || strings.HasPrefix(c, "../") || strings.IndexByte(c, 0) >= 0 {
		return "", fmt.Errorf("tar stream: the name %q does not stay below its top", name)
	}
	return c, nil
}

// maxDirs bounds the directories whose modes are set at the end.
const maxDirs = 1 << 16

type unpacker struct {
	o        Options
	root     *os.Root // where everything lands
	top      string   // first element of the stream's names, when it is renamed
	rename   string   // what it is called here; "": as in the stream
	finished []dirMode
}

type dirMode struct {
	name string
	h    *tar.Header
}

func (u *unpacker) close() {
	if u.root != nil {
		_ = u.root.Close()
	}
}

// aim finds out which directory gets the stream, and under which name.
func (u *unpacker) aim(root *Root, dest, top string, topIsDir bool) error {
	f, err := root.find(dest, true)
	if err == nil {
		defer f.Close()
		st, err := stat(f)
		if err != nil {
			return err
		}
		if isDir(&st) {
			u.root, err = os.OpenRoot(fdPath(f))
			return err
		}
	}
	clean := path.Clean("/" + dest)
	switch {
	case u.o.Directory:
		return fmt.Errorf("%s: no such directory; a tar stream needs one that exists", dest)
	case err == nil && (topIsDir || strings.HasSuffix(dest, "/")):
		return fmt.Errorf("%s: is not a directory", dest)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil && strings.HasSuffix(dest, "/") && !topIsDir:
		return fmt.Errorf("%s: no such directory", dest)
	}
	parent, err := root.find(path.Dir(clean), true)
	if err != nil {
		return err
	}
	defer parent.Close()
	if u.root, err = os.OpenRoot(fdPath(parent)); err != nil {
		return err
	}
	u.top, _, _ = strings.Cut(top, "/")
	u.rename = path.Base(clean)
	return nil
}

// place is where name of the stream goes below u.root.
func (u *unpacker) place(name string) (string, error) {
	if u.rename == "" {
		return name, nil
	}
	if u.top == "." {
		return path.Join(u.rename, name), nil
	}
	first, rest, _ := strings.Cut(name, "/")
	if first != u.top {
		return "", fmt.Errorf("tar stream: %q is beside its top, %q", name, u.top)
	}
	return path.Join(u.rename, rest), nil
}

func (u *unpacker) entry(h *tar.Header, name string, r io.Reader) error {
	name, err := u.place(name)
	if err != nil {
		return err
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") { // a few bytes that become terabytes
			return fmt.Errorf("tar stream: %s: sparse files are not taken", h.Name)
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(name, h)
	case tar.TypeReg:
		return u.file(name, h, r)
	case tar.TypeSymlink:
		if err := u.makeRoom(name); err != nil {
			return err
		}
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.own(name, h)
	case tar.TypeLink:
		target, err := cleanName(h.Linkname)
		if err == nil {
			target, err = u.place(target)
		}
		if err != nil {
			return err
		}
		if err := u.makeRoom(name); err != nil {
			return err
		}
		return u.root.Link(target, name)
	}
	return fmt.Errorf("tar stream: %s is of the type %q; only files, directories and links are copied", h.Name, h.Typeflag)
}

func (u *unpacker) directory(name string, h *tar.Header) error {
	if name == "." {
		return nil // the destination itself stays as it is
	}
	err := u.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		st, serr := u.root.Lstat(name)
		if serr != nil {
			return serr
		}
		if !st.IsDir() {
			return fmt.Errorf("%s: is not a directory, and a directory is to be copied there", name)
		}
		return nil // the one that is there keeps its mode
	}
	if err != nil {
		return err
	}
	if err := u.own(name, h); err != nil {
		return err
	}
	if len(u.finished) < maxDirs {
		u.finished = append(u.finished, dirMode{name, h}) // its mode may forbid what is to come
		return nil
	}
	return u.root.Chmod(name, u.mode(h))
}

// makeRoom removes what is in the way of a file or link.
func (u *unpacker) makeRoom(name string) error {
	st, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.IsDir():
		return fmt.Errorf("%s: is a directory, and something else is to be copied there", name)
	}
	return u.root.Remove(name)
}

func (u *unpacker) file(name string, h *tar.Header, r io.Reader) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if err := u.makeRoom(name); errors.Is(err, unix.EBUSY) {
		flags = os.O_WRONLY | os.O_TRUNC // something is mounted on it: /etc/hosts, say
	} else if err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil && flags&os.O_EXCL != 0 {
		if u.o.Keep {
			err = f.Chown(h.Uid, h.Gid)
		}
		err = errors.Join(err, f.Chmod(u.mode(h)))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

func (u *unpacker) own(name string, h *tar.Header) error {
	if !u.o.Keep {
		return nil
	}
	return u.root.Lchown(name, h.Uid, h.Gid)
}

// mode is the file mode that a header asks for, as far as it is honoured.
func (u *unpacker) mode(h *tar.Header) fs.FileMode {
	m := fs.FileMode(h.Mode & 0o777)
	if u.o.Keep {
		for bit, flag := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
			if h.Mode&bit != 0 {
				m |= flag
			}
		}
	}
	return m
}

// finish gives new directories, the deepest first, their modes and times.
func (u *unpacker) finish() error {
	var errs []error
	for _, d := range slices.Backward(u.finished) {
		errs = append(errs, u.root.Chmod(d.name, u.mode(d.h)), u.root.Chtimes(d.name, d.h.ModTime, d.h.ModTime))
	}
	return errors.Join(errs...)
}
