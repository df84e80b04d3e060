package probe

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
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
func ioFile(dir string, size int64) (fd int, end func(), err error) {
	f, err := os.Create(filepath.Join(dir, "data"))
	if err != nil {
		return -1, nil, err
	}
	end = func() { _ = f.Close(); _ = os.Remove(f.Name()) }
	if _, err := f.Write(make([]byte, size)); err != nil {
		end()
		return -1, nil, err
	}
	return int(f.Fd()), end, nil
}

// moved is the error of a call that is to move want bytes.
func moved(call string, n, want int, e syscall.Errno) error {
	if e != 0 {
		return os.NewSyscallError(call, e)
	}
	if n != want {
		return fmt.Errorf("%s: %d bytes of %d", call, n, want)
	}
	return nil
}

func openSeqWrite(dir string) (*bench, error) {
	fd, end, err := ioFile(dir, 1<<20)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	return timed(func(n int) error {
		for range n {
			for at := int64(0); at < 1<<20; at += int64(len(buf)) {
				k, e := rawPwrite(fd, buf, at)
				if err := moved("pwrite", k, len(buf), e); err != nil {
					return err
				}
			}
			if e := rawSync(syscall.SYS_FSYNC, fd); e != 0 {
				return os.NewSyscallError("fsync", e)
			}
		}
		return nil
	}, end), nil
}

func openSeqRead(dir string) (*bench, error) {
	fd, end, err := ioFile(dir, 1<<20)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	return timed(func(n int) error {
		for range n {
			for at := int64(0); at < 1<<20; at += int64(len(buf)) {
				k, e := rawPread(fd, buf, at)
				if err := moved("pread", k, len(buf), e); err != nil {
					return err
				}
			}
		}
		return nil
	}, end), nil
}

func openRandWrite(dir string) (*bench, error) {
	const size, block = 4 << 20, 4096
	fd, end, err := ioFile(dir, size)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, block)
	r := rand.New(rand.NewPCG(3, 4))
	return timed(func(n int) error {
		for range n {
			k, e := rawPwrite(fd, buf, r.Int64N(size/block)*block)
			if err := moved("pwrite", k, block, e); err != nil {
				return err
			}
			if e := rawSync(syscall.SYS_FDATASYNC, fd); e != 0 {
				return os.NewSyscallError("fdatasync", e)
			}
		}
		return nil
	}, end), nil
}

func openMeta(dir string) (*bench, error) {
	a, b := cString(filepath.Join(dir, "a")+"\x00"), cString(filepath.Join(dir, "b")+"\x00")
	return timed(func(n int) error {
		for range n {
			fd, e := rawCreate(a)
			if e != 0 {
				return os.NewSyscallError("open", e)
			}
			closeRaw(fd)
			if e := rawStat(a); e != 0 {
				return os.NewSyscallError("stat", e)
			}
			if e := rawRename(a, b); e != 0 {
				return os.NewSyscallError("rename", e)
			}
			if e := rawUnlink(b); e != 0 {
				return os.NewSyscallError("unlink", e)
			}
		}
		return nil
	}, nothing), nil
}
