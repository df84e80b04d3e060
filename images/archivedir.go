package images

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// archiveDir writes a directory as a layer: names in order, owners by number,
// modification times, hard links, devices and extended attributes. It stays on
// the directory's file system, so mounts (such as /proc) are empty directories.
// The same tree always gives the same bytes.
func archiveDir(ctx context.Context, w io.Writer, dir string) error {
	bw := bufio.NewWriterSize(w, 256<<10)
	a := &dirArchiver{tw: tar.NewWriter(bw), links: map[inodeKey]string{}}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	a.root, a.dir = root, dir
	err = fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = a.add(name)
		}
		if err != nil && !errors.Is(err, fs.SkipDir) {
			return fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
		return err
	})
	if err != nil {
		return err
	}
	return errors.Join(a.tw.Close(), bw.Flush())
}

type inodeKey struct{ dev, ino uint64 }

type dirArchiver struct {
	tw    *tar.Writer
	root  *os.Root
	dir   string
	dev   uint64
	links map[inodeKey]string
}

func (a *dirArchiver) add(name string) error {
	fi, err := a.root.Lstat(name)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%w: no inode information", ErrUnsupported)
	}
	if name == "." {
		a.dev = st.Dev
	}
	if fi.Mode()&fs.ModeSocket != 0 {
		return nil // a socket without its server is nothing
	}
	target := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if target, err = a.root.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, target)
	if err != nil {
		return err
	}
	h.Name = name
	if fi.IsDir() {
		h.Name += "/"
	}
	// Names of owners are this machine's, and access and change times are
	// not part of the contents.
	h.Uname, h.Gname = "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	h.Format = tar.FormatPAX
	if err := a.xattrs(name, h); err != nil {
		return err
	}
	if key := (inodeKey{st.Dev, st.Ino}); !fi.IsDir() && st.Nlink > 1 {
		if first, ok := a.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
			return a.tw.WriteHeader(h)
		}
		a.links[key] = name
	}
	if err := a.tw.WriteHeader(h); err != nil {
		return err
	}
	if fi.Mode().IsRegular() {
		return a.contents(name, h.Size)
	}
	if fi.IsDir() && st.Dev != a.dev {
		return fs.SkipDir
	}
	return nil
}

func (a *dirArchiver) contents(name string, size int64) error {
	f, err := a.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(a.tw, f, size); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("it shrank while it was read")
		}
		return err
	}
	return nil
}

// xattrs reads the extended attributes. The calls take paths, and the last
// component is not followed; the tree is the user's own.
func (a *dirArchiver) xattrs(name string, h *tar.Header) error {
	path := filepath.Join(a.dir, name)
	n, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || (err == nil && n == 0) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("llistxattr", err)
	}
	names := make([]byte, n)
	if n, err = unix.Llistxattr(path, names); err != nil {
		return os.NewSyscallError("llistxattr", err)
	}
	for attr := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if attr == "" || attr == "security.selinux" || strings.HasPrefix(attr, "system.") && !strings.HasPrefix(attr, "system.posix_acl_") {
			continue // labels and views of this machine, not of the files
		}
		n, err := unix.Lgetxattr(path, attr, nil)
		if err != nil {
			return os.NewSyscallError("lgetxattr", err)
		}
		v := make([]byte, n)
		if n, err = unix.Lgetxattr(path, attr, v); err != nil {
			return os.NewSyscallError("lgetxattr", err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+attr] = string(v[:n])
	}
	return nil
}
