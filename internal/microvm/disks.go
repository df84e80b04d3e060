package microvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

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
func copyDisks(ctx context.Context, disks []workload.Disk, dir string) (bytes uint64, err error) {
	for i, d := range disks {
		name := diskCopy(i, d)
		if name == "" {
			continue
		}
		n, err := copyFile(ctx, filepath.Join(dir, name), d.Path)
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
			if _, err := src.Seek(at, io.SeekStart); err != nil {
				return err
			}
			if _, err := dst.Seek(at, io.SeekStart); err != nil {
				return err
			}
			if _, err := io.CopyN(dst, src, n); err != nil { // copy_file_range
				return err
			}
			at += n
		}
	}
	return nil
}
