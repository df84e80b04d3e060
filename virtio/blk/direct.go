package blk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// direct is the image opened once more, past the page cache. What is not
// aligned as the host wants it goes through the page cache all the same, which
// the kernel keeps coherent with it.
type direct struct {
	f      *os.File
	fd     int
	memory int // alignment of buffers and lengths, a power of two
	offset int // of places on the disk
}

// openDirect opens the file of im for direct I/O, unless it is given as f, and
// probes what alignment that takes.
func openDirect(im *image, f *os.File) (*direct, error) {
	if f != nil {
		return adoptDirect(im, f)
	}
	f, err := reopen(im, unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) {
		return nil, errors.New("its file system has no direct I/O; use cache=writeback")
	}
	if err != nil {
		return nil, fmt.Errorf("open for direct I/O: %w", err)
	}
	d := &direct{f: f, fd: int(f.Fd())}
	if err := d.probe(im.sectors.Load() * sectorSize); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

// adoptDirect is openDirect for a file that another process has opened.
func adoptDirect(im *image, f *os.File) (*direct, error) {
	a, err := im.f.Stat()
	if err != nil {
		return nil, err
	}
	b, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !os.SameFile(a, b) {
		return nil, errors.New("the file given for direct I/O is another one")
	}
	d := &direct{f: f, fd: int(f.Fd())}
	return d, d.probe(im.sectors.Load() * sectorSize)
}

// reopen opens the file of im once more, by its descriptor: the path may name
// another one by now.
func reopen(im *image, flags int) (*os.File, error) {
	flags |= os.O_RDWR
	if im.readOnly {
		flags &^= os.O_RDWR
	}
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", im.fd), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

// probe asks the kernel for the alignment (Linux 6.1), or else tries reads.
func (d *direct) probe(size uint64) error {
	var st unix.Statx_t
	err := unix.Statx(d.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && powerOfTwo(st.Dio_mem_align) && powerOfTwo(st.Dio_offset_align) {
		d.memory, d.offset = int(st.Dio_mem_align), int(st.Dio_offset_align)
		return nil
	}
	page, err := unix.Mmap(-1, 0, 8<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer func() { _ = unix.Munmap(page) }()
	var first error
	for align := sectorSize; align <= 4096 && uint64(align) <= size; align *= 2 {
		_, err := unix.Pread(d.fd, page[align:2*align], int64(size-uint64(align))&^int64(align-1))
		if err == nil {
			d.memory, d.offset = align, align
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return fmt.Errorf("no alignment of 512 to 4096 bytes lets direct I/O work; use cache=writeback: %w", first)
}

func powerOfTwo(n uint32) bool { return n > 0 && n <= 1<<20 && n&(n-1) == 0 }

// fdFor returns the descriptor by which bufs can move to or from off.
func (im *image) fdFor(bufs [][]byte, off int64) int {
	if im.file(bufs, off) == 0 {
		return im.fd
	}
	return im.direct.fd
}

func (d *direct) takes(bufs [][]byte, off int64) bool {
	if off&int64(d.offset-1) != 0 {
		return false
	}
	for _, b := range bufs {
		if !aligned(b, d.memory) || len(b)&(d.offset-1) != 0 {
			return false
		}
	}
	return true
}

// file is fdFor, as the number among a ring's files: 0 goes through the page
// cache.
func (im *image) file(bufs [][]byte, off int64) int {
	if im.direct == nil || !im.direct.takes(bufs, off) {
		return 0
	}
	return 1
}
