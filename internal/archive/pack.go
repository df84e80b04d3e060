package archive

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

// maxDepth bounds how deep a tree may be: each level holds a descriptor.
const maxDepth = 512

// Pack writes what is at name in root to w. The stream's names begin with the
// last element of name, or with "." when name ends in "/." or is the root:
// then it is about the directory's content. A symbolic link at the end of name
// is followed with follow only, those below never.
//
// The error says how many special files were left out, when all the rest was
// written.
func Pack(w io.Writer, root *Root, name string, follow bool) error {
	f, err := root.find(name, follow || strings.HasSuffix(name, "/"))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := stat(f)
	if err != nil {
		return err
	}
	p := &packer{w: tar.NewWriter(w), dev: st.Dev}
	if err := p.add(f, &st, topName(name), 0); err != nil {
		return err
	}
	if err := p.w.Close(); err != nil {
		return err
	}
	if p.skipped > 0 {
		return fmt.Errorf("%d devices, pipes or sockets were left out, the first is %s", p.skipped, p.first)
	}
	return nil
}

// topName is what the stream calls the thing at name.
func topName(name string) string {
	if base := path.Base(path.Clean("/" + name)); base != "/" && !strings.HasSuffix(name, "/.") && name != "." {
		return base
	}
	return "."
}

type packer struct {
	w       *tar.Writer
	dev     uint64 // directories of others are not entered
	skipped int
	first   string
}

// add writes one place and what is below it.
func (p *packer) add(f *os.File, st *unix.Stat_t, name string, depth int) error {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec).Truncate(time.Second),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if err := p.w.WriteHeader(h); err != nil {
			return err
		}
		return p.children(f, name, depth)
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		var b [unix.PathMax]byte
		n, err := unix.Readlinkat(int(f.Fd()), "", b[:])
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
		h.Linkname = string(b[:n])
		return p.w.WriteHeader(h)
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
		return p.content(f, h)
	}
	if depth == 0 {
		return fmt.Errorf("%s: is a device, pipe or socket; only files, directories and links are copied", name)
	}
	if p.skipped++; p.skipped == 1 {
		p.first = name
	}
	return nil
}

func (p *packer) content(f *os.File, h *tar.Header) error {
	in, err := reopen(f, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := stat(in)
	if err != nil {
		return err
	}
	h.Size = st.Size
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	// A file that grows is cut where it ended when the copy began.
	n, err := io.Copy(p.w, io.LimitReader(in, h.Size))
	if err == nil && n < h.Size {
		err = fmt.Errorf("%s: became shorter while it was copied", h.Name)
	}
	return err
}

func (p *packer) children(f *os.File, name string, depth int) error {
	if depth == maxDepth {
		return fmt.Errorf("%s: more than %d directories deep", name, maxDepth)
	}
	dir, err := reopen(f, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, n := range names {
			if err := p.child(dir, n, path.Join(name, n), depth+1); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (p *packer) child(dir *os.File, base, name string, depth int) error {
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // removed meanwhile
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	st, err := stat(f)
	if err != nil || isDir(&st) && st.Dev != p.dev {
		return err // or somebody else's file system
	}
	return p.add(f, &st, name, depth)
}
