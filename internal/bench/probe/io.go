package probe

import (
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func ioProbes() []Probe {
	return []Probe{
		{Name: "seq-write", Chapter: "io", Follows: "fio write", MiB: 1, open: openSeqWrite},
		{Name: "seq-read", Chapter: "io", Follows: "fio read", MiB: 1, open: openSeqRead},
		{Name: "rand-write", Chapter: "io", Follows: "fio randwrite", MiB: 4.0 / 1024, open: openRandWrite},
		{Name: "file-meta", Chapter: "io", Follows: "lmbench lat_fs", open: openMeta},
	}
}

// ioFile is a file of size bytes, removed by close.
func ioFile(dir string, size int64) (f *os.File, end func(), err error) {
	f, err = os.Create(filepath.Join(dir, "data"))
	if err != nil {
		return nil, nil, err
	}
	if _, err := f.Write(make([]byte, size)); err != nil {
		return nil, nil, err
	}
	return f, func() { _ = f.Close(); _ = os.Remove(f.Name()) }, nil
}

func openSeqWrite(dir string) (*bench, error) {
	f, end, err := ioFile(dir, 1<<20)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	return timed(func(n int) error {
		for range n {
			for at := int64(0); at < 1<<20; at += int64(len(buf)) {
				if _, err := f.WriteAt(buf, at); err != nil {
					return err
				}
			}
			if err := f.Sync(); err != nil {
				return err
			}
		}
		return nil
	}, end), nil
}

func openSeqRead(dir string) (*bench, error) {
	f, end, err := ioFile(dir, 1<<20)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	return timed(func(n int) error {
		for range n {
			for at := int64(0); at < 1<<20; at += int64(len(buf)) {
				if _, err := f.ReadAt(buf, at); err != nil {
					return err
				}
			}
		}
		return nil
	}, end), nil
}

func openRandWrite(dir string) (*bench, error) {
	const size, block = 4 << 20, 4096
	f, end, err := ioFile(dir, size)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, block)
	r := rand.New(rand.NewPCG(3, 4))
	return timed(func(n int) error {
		for range n {
			if _, err := f.WriteAt(buf, r.Int64N(size/block)*block); err != nil {
				return err
			}
			if err := unix.Fdatasync(int(f.Fd())); err != nil {
				return os.NewSyscallError("fdatasync", err)
			}
		}
		return nil
	}, end), nil
}

func openMeta(dir string) (*bench, error) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	return timed(func(n int) error {
		for range n {
			f, err := os.Create(a)
			if err != nil {
				return err
			}
			_ = f.Close()
			if _, err := os.Stat(a); err != nil {
				return err
			}
			if err := os.Rename(a, b); err != nil {
				return err
			}
			if err := os.Remove(b); err != nil {
				return err
			}
		}
		return nil
	}, nothing), nil
}
