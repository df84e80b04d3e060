package boot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The cache holds two kinds of names:
//
//	vmlinux-<sha256 of the bzImage>   the unpacked kernel, with holes
//	seen-<dev>-<ino>-<size>-<mtime>-<ctime>   symbolic link to the former
//
// The second spares hashing a bzImage that has not changed since it was last
// opened: hashing costs more than everything else Load does. Names appear by
// rename, so any number of processes may share the directory, and a killed
// one leaves at most a tmp- file, which a later unpack removes.
const (
	tmpPrefix = "tmp-"
	tmpMaxAge = time.Hour
)

// settle is how long a file must have been left alone before its timestamps
// are trusted: two writes can carry the same one. A variable for tests.
var settle = 2 * time.Second

// unpacked returns the kernel inside the bzImage f, out of the cache if it is
// there. The caller closes the file.
func (h *bzHeader) unpacked(f *os.File, dir string) (*os.File, *elfImage, error) {
	size, err := h.identify(f)
	if err != nil {
		return nil, nil, err
	}
	if dir == "" {
		return h.unpackMemory(f, size)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("kernel cache: %w", err)
	}
	seen, trusted := seenName(f)
	if v, im := openCached(filepath.Join(dir, seen), size); v != nil {
		return v, im, nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, maxBzImage)); err != nil {
		return nil, nil, err
	}
	name := "vmlinux-" + hex.EncodeToString(sum.Sum(nil))
	path := filepath.Join(dir, name)
	v, im := openCached(path, size)
	if v == nil {
		if v, im, err = h.unpackFile(f, path, size); err != nil {
			return nil, nil, err
		}
	}
	if trusted {
		link(name, filepath.Join(dir, seen))
	}
	return v, im, nil
}

// openCached opens an unpacked kernel, or nil when it is missing or not what
// it should be (a disk that lost writes): then it is made again.
func openCached(path string, size int64) (*os.File, *elfImage) {
	v, err := os.Open(path)
	if err != nil {
		return nil, nil
	}
	if st, err := v.Stat(); err == nil && st.Mode().IsRegular() && st.Size() == size {
		if im, err := parseELF(v, size); err == nil {
			return v, im
		}
	}
	v.Close()
	return nil, nil
}

// unpackFile makes path.
func (h *bzHeader) unpackFile(f *os.File, path string, size int64) (_ *os.File, _ *elfImage, err error) {
	dropStale(filepath.Dir(path))
	t, err := os.CreateTemp(filepath.Dir(path), tmpPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("kernel cache: %w", err)
	}
	defer func() {
		if err != nil {
			t.Close()
			os.Remove(t.Name())
		}
	}()
	im, err := h.unpackInto(t, f, size)
	if err != nil {
		return nil, nil, err
	}
	for _, step := range []func() error{
		func() error { return t.Chmod(0o644) },
		t.Sync, // else a power cut can leave the name without the bytes
		func() error { return os.Rename(t.Name(), path) },
	} {
		if err := step(); err != nil {
			return nil, nil, fmt.Errorf("kernel cache: %w", err)
		}
	}
	named, err := os.Open(path) // t goes by a name that is gone: see Kernel.ELFPath
	if err != nil {
		return nil, nil, fmt.Errorf("kernel cache: %w", err)
	}
	_ = t.Close() // it has been synced
	return named, im, nil
}

// unpackMemory unpacks into an anonymous file.
func (h *bzHeader) unpackMemory(f *os.File, size int64) (*os.File, *elfImage, error) {
	fd, err := unix.MemfdCreate("vmlinux", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	v := os.NewFile(uintptr(fd), "vmlinux")
	im, err := h.unpackInto(v, f, size)
	if err != nil {
		v.Close()
		return nil, nil, err
	}
	return v, im, nil
}

func (h *bzHeader) unpackInto(v, f *os.File, size int64) (*elfImage, error) {
	w := &sparseWriter{f: v}
	if err := h.unpackTo(w, f, size); err != nil {
		return nil, err
	}
	if err := w.finish(); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	im, err := parseELF(v, size)
	if err != nil {
		return nil, fmt.Errorf("inside the bzImage: %w", err)
	}
	return im, nil
}

// seenName is the name under which an unchanged f is found again, and whether
// f has been left alone long enough to be remembered by it.
func seenName(f *os.File) (name string, trusted bool) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "seen-unknown", false
	}
	name = fmt.Sprintf("seen-%x-%x-%x-%x-%x", st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
	return name, time.Since(time.Unix(0, st.Ctim.Nano())) > settle
}

// link makes the symbolic link path to target. It only saves time, so it may
// fail.
func link(target, path string) {
	if err := os.Symlink(target, path); !errors.Is(err, fs.ErrExist) {
		return
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if os.Symlink(target, tmp) == nil && os.Rename(tmp, path) != nil {
		os.Remove(tmp)
	}
}

// dropStale removes what killed processes left.
func dropStale(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tmpPrefix) {
			continue
		}
		if st, err := e.Info(); err == nil && time.Since(st.ModTime()) > tmpMaxAge {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
