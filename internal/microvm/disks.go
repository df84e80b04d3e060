package microvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
)

// diskCopy is the name of disk i's copy in a snapshot's directory; empty for a
// disk that the guest cannot write.
func diskCopy(i int, d workload.Disk) string {
	if d.ReadOnly {
		return ""
	}
	return fmt.Sprintf("disk%d", i)
}

// overlaid refuses disks whose content is in two files: nothing copies or hands over
// the two together.
func overlaid(disks []workload.Disk) error {
	for _, d := range disks {
		if d.Overlay != "" {
			return fmt.Errorf("%w: what the guest writes to disk %s is in %s, over an image in qcow2; that cannot be carried along", workload.ErrUnsupported, d.Path, d.Overlay)
		}
	}
	return nil
}

// copyDisks puts copies of the disks that the guest can write into dir. They
// share their blocks with the originals where the file system can do that.
func copyDisks(ctx context.Context, m *machine.Machine, disks []workload.Disk, dir string) (bytes uint64, err error) {
	images := m.Images()
	for i, d := range disks {
		name := diskCopy(i, d)
		if name == "" {
			continue
		}
		at := slices.IndexFunc(images, func(o machine.Disk) bool { return o.ID == serialOf(i, d) })
		if at < 0 {
			return bytes, fmt.Errorf("copy of disk %s: the VM does not have it any more", d.Path)
		}
		n, err := copyOpen(ctx, filepath.Join(dir, name), images[at].File) // its path may be out of reach
		if err != nil {
			return bytes, fmt.Errorf("copy of disk %s: %w", d.Path, err)
		}
		bytes += uint64(n)
	}
	return bytes, nil
}

// copyFile copies a regular file with its holes, and syncs the copy.
func copyFile(ctx context.Context, to, from string) (size int64, err error) {
	src, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	return copyOpen(ctx, to, src)
}

// copyOpen is copyFile from an open file that others may use meanwhile.
func copyOpen(ctx context.Context, to string, src *os.File) (size int64, err error) {
	st, err := src.Stat()
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%w: it is no regular file, and a device is not copied", workload.ErrUnsupported)
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err = errors.Join(err, dst.Close()); err != nil {
			_ = os.Remove(to)
		}
	}()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return st.Size(), dst.Sync()
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return 0, err
	}
	if err := copyData(ctx, dst, src, st.Size()); err != nil {
		return 0, err
	}
	return st.Size(), dst.Sync()
}

// copyStep bounds what is copied between two looks at the context.
const copyStep = 64 << 20

// copyData copies what is not a hole.
func copyData(ctx context.Context, dst, src *os.File, size int64) error {
	for at := int64(0); at < size; {
		start, err := src.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // the rest is a hole
		}
		if err != nil {
			return err
		}
		end, err := src.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = start; at < end; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			n := min(end-at, copyStep)
			n, err := copyRange(dst, src, at, n)
			if err != nil {
				return err
			}
			at += n
		}
	}
	return nil
}

// copyRange copies at most n bytes from where they are to the same place, and says how
// many. The files' offsets stay.
func copyRange(dst, src *os.File, at, n int64) (int64, error) {
	from, to := at, at
	fast, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(n), 0)
	done := int64(fast)
	switch {
	case err == nil:
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM):
		// two file systems, on an old kernel
		if done, err = io.Copy(io.NewOffsetWriter(dst, at), io.NewSectionReader(src, at, n)); err != nil {
			return 0, err
		}
	default:
		return 0, os.NewSyscallError("copy_file_range", err)
	}
	if done == 0 { // it has become shorter
		return 0, io.ErrUnexpectedEOF
	}
	return done, nil
}
