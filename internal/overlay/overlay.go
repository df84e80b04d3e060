package overlay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Overlay is a disk: an image that is only read, and a file over it. Its methods may
// be called concurrently.
type Overlay struct {
	below io.ReaderAt
	f     *os.File
	size  int64
	data  int64 // where the first block is in the file

	mu    sync.RWMutex // guards what follows; held for writing while a block comes here
	here  []byte       // a bit for each block
	dirty map[int64]struct{}
	block []byte // the one that comes

	syncing sync.Mutex // one Sync at a time; taken before mu
	lost    error      // what made a Sync fail: what it should have synced is gone
}

// Open makes a disk of size bytes of the image below, and of what has been written to
// f so far; an empty f is the beginning. id is the image's. f stays the caller's, who
// has locked it. Errors wrap ErrFile.
func Open(below io.ReaderAt, size uint64, id ID, f *os.File) (*Overlay, error) {
	if err := prepare(f, size, id); err != nil {
		return nil, err
	}
	bitmap, data := layout(size)
	o := &Overlay{below: below, f: f, size: int64(size), data: data, here: make([]byte, bitmap), dirty: map[int64]struct{}{}, block: make([]byte, blockSize)}
	if _, err := f.ReadAt(o.here, headerSize); err != nil {
		return nil, fmt.Errorf("%w: the bitmap of %s: %w", ErrFile, f.Name(), err)
	}
	return o, nil
}

func (o *Overlay) has(block int64) bool { return o.here[block/8]&(1<<(block%8)) != 0 }

// take notes that a block is here. mu is held for writing.
func (o *Overlay) take(block int64) {
	o.here[block/8] |= 1 << (block % 8)
	o.dirty[block/8/pageSize] = struct{}{}
}

// length is how much of a block the disk has.
func (o *Overlay) length(block int64) int64 { return min(blockSize, o.size-block<<blockBits) }

func (o *Overlay) within(n, off int64) error {
	if n < 0 || off < 0 || off > o.size || n > o.size-off {
		return fmt.Errorf("%w: %d bytes at %d are outside of the disk", ErrFile, n, off)
	}
	return nil
}

// ReadAt fills p from off on.
func (o *Overlay) ReadAt(p []byte, off int64) (n int, err error) {
	if err := o.within(int64(len(p)), off); err != nil {
		return 0, err
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	for n < len(p) {
		at := off + int64(n)
		part, here := o.run(p[n:], at)
		from, place := o.below, at
		if here {
			from, place = o.f, o.data+at
		}
		if err := fill(from, part, place); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// fill reads all of p.
func fill(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// run is the part of p, which begins at off, whose blocks are all here, or all are
// not. mu is held.
func (o *Overlay) run(p []byte, off int64) (part []byte, here bool) {
	block := off >> blockBits
	here = o.has(block)
	end := (block + 1) << blockBits
	for end < off+int64(len(p)) && o.has(end>>blockBits) == here {
		end += blockSize
	}
	return p[:min(int64(len(p)), end-off)], here
}

// WriteAt stores p from off on.
func (o *Overlay) WriteAt(p []byte, off int64) (n int, err error) {
	if err := o.within(int64(len(p)), off); err != nil {
		return 0, err
	}
	for n < len(p) {
		at := off + int64(n)
		part := p[n:min(int64(len(p)), int64(n)+blockSize-at%blockSize)]
		if err := o.store(part, at); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// store writes a part of one block.
func (o *Overlay) store(p []byte, off int64) error {
	block := off >> blockBits
	o.mu.RLock()
	if o.has(block) {
		defer o.mu.RUnlock()
		_, err := o.f.WriteAt(p, o.data+off)
		return err
	}
	o.mu.RUnlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	begin := block << blockBits
	whole := o.block[:o.length(block)]
	from := o.below
	place := begin
	if o.has(block) { // by now
		from, place = o.f, o.data+begin
	}
	if len(p) < len(whole) {
		if err := fill(from, whole, place); err != nil {
			return err
		}
	}
	copy(whole[off-begin:], p)
	if _, err := o.f.WriteAt(whole, o.data+begin); err != nil {
		return err // nothing claims the block
	}
	o.take(block)
	return nil
}

// Zero makes n bytes from off on read as zeroes; whole blocks take no space then.
func (o *Overlay) Zero(off, n int64) error {
	if err := o.within(n, off); err != nil {
		return err
	}
	for n > 0 {
		block := off >> blockBits
		part := min(n, blockSize-off%blockSize)
		err := error(nil)
		if part == o.length(block) {
			err = o.clear(block)
		} else {
			err = o.store(zeroes[:part], off)
		}
		if err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// zeroes is only read.
var zeroes [blockSize]byte

// clear makes a hole of a block.
func (o *Overlay) clear(block int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, n := o.data+block<<blockBits, o.length(block)
	if err := unix.Fallocate(int(o.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n); err != nil {
		if _, err := o.f.WriteAt(zeroes[:n], at); err != nil { // a file system without holes
			return err
		}
	}
	o.take(block)
	return nil
}
