package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
)

// treeRoot is the root file system inside a tree's directory, which only root
// may enter: there are set-user-ID programs and devices below.
const treeRoot = "root"

// Tree returns a directory with the content of a root file system image, for
// hosts whose kernel cannot mount that, and unpacks it if need be. It lives as
// long as the image. It needs root, for owners and devices.
func (s *Store) Tree(ctx context.Context, r Rootfs) (string, error) {
	final := s.treePath(r.Digest)
	done := filepath.Join(final, treeRoot)
	if _, err := os.Stat(done); err == nil {
		return done, nil
	}
	// The shared lock keeps what is in tmp/ from being taken for leftovers.
	lock, err := lockFile(ctx, s.path("lock"), unix.LOCK_SH)
	if err != nil {
		return "", fmt.Errorf("image store: %w", err)
	}
	defer lock.Close()
	once, err := lockFile(ctx, s.buildLockPath(r.Digest), unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer once.Close()
	if _, err := os.Stat(done); err == nil {
		return done, nil
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), "tree") // 0700
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp) // nothing is there any more when it went well
	if err := unpackTree(ctx, r.Path, filepath.Join(tmp, treeRoot)); err != nil {
		return "", fmt.Errorf("unpack the root file system of %s: %w", r.Digest, err)
	}
	return done, os.Rename(tmp, final)
}

// unpackTree makes dir from an image. All names are of our own building, and
// nobody else sees dir before it is done: links are made, and never followed.
func unpackTree(ctx context.Context, image, dir string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	img, err := goerofs.Open(f)
	if err != nil {
		return err
	}
	u := &unpacker{img: img, dir: dir, links: map[int64]string{}, root: os.Geteuid() == 0}
	err = fs.WalkDir(img, ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = u.entry(name, e)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(u.dirs) { // what is made in one changes its time
		if err := setTime(d.path, d.st); err != nil {
			return err
		}
	}
	return nil
}

type unpacker struct {
	img   fs.FS
	root  bool // else everything is our user's, who can give nothing away
	dir   string
	links map[int64]string // by inode: the first name of a file with several
	dirs  []unpacked
}

type unpacked struct {
	path string
	st   *goerofs.Stat
}

func (u *unpacker) entry(name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*goerofs.Stat)
	if !ok {
		return errors.New("the image tells nothing of it")
	}
	path := filepath.Join(u.dir, name)
	if first, ok := u.links[st.Ino]; ok && !info.IsDir() {
		return os.Link(first, path)
	}
	if st.Nlink > 1 && !info.IsDir() {
		u.links[st.Ino] = path
	}
	switch mode := st.Mode; {
	case mode.IsDir():
		err = os.Mkdir(path, 0o700)
		u.dirs = append(u.dirs, unpacked{path, st})
	case mode&fs.ModeSymlink != 0:
		var to string
		if to, err = fs.ReadLink(u.img, name); err == nil {
			err = os.Symlink(to, path)
		}
	case mode.IsRegular():
		err = u.content(name, path)
	case mode&fs.ModeDevice != 0 && !u.root:
		return nil // only root makes them, and in a user namespace they would open nothing
	default:
		err = unix.Mknod(path, fileType(mode)|0o600, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return u.dress(path, st)
}

func (u *unpacker) content(name, path string) error {
	in, err := u.img.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// dress gives a file its owner, mode, attributes and time, in this order: a
// change of owner takes some of the others away.
func (u *unpacker) dress(path string, st *goerofs.Stat) error {
	if u.root {
		if err := os.Lchown(path, int(st.UID), int(st.GID)); err != nil {
			return err
		}
	}
	if st.Mode&fs.ModeSymlink == 0 {
		if err := os.Chmod(path, u.writable(st.Mode)&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
			return err
		}
	}
	for name, value := range st.Xattrs {
		if !u.root && !strings.HasPrefix(name, "user.") {
			continue // privileges are not ours to give
		}
		if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return setTime(path, st)
}

// writable lets a user who is not root make files in directories that nobody may
// write to, and remove them one day.
func (u *unpacker) writable(mode fs.FileMode) fs.FileMode {
	if !u.root && mode.IsDir() {
		mode |= 0o700
	}
	return mode
}

func setTime(path string, st *goerofs.Stat) error {
	t := unix.NsecToTimespec(int64(st.Mtime)*1e9 + int64(st.MtimeNs))
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW))
}

// fileType is the kernel's type of a special file.
func fileType(mode fs.FileMode) uint32 {
	switch {
	case mode&fs.ModeCharDevice != 0:
		return unix.S_IFCHR
	case mode&fs.ModeDevice != 0:
		return unix.S_IFBLK
	case mode&fs.ModeSocket != 0:
		return unix.S_IFSOCK
	}
	return unix.S_IFIFO
}
