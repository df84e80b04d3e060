package qcow2

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"
)

// Image is an open image. Its methods may be called concurrently.
type Image struct {
	h header

	mu    sync.Mutex // guards what follows: the library is not for several at once
	inner *qcow2.Qcow2
	at    int64  // of the compressed cluster that was read last, on the disk; -1: none
	plain []byte // what it holds
}

// Open reads the header of the image that r is, which has fileSize bytes. Errors wrap
// ErrImage. r stays the caller's.
func Open(r io.ReaderAt, fileSize int64) (*Image, error) {
	setDecompressors()
	h, err := readHeader(r, fileSize)
	if err != nil {
		return nil, err
	}
	inner, err := qcow2.Open(&judged{r, h.view()}, nil)
	if err == nil {
		err = inner.Readable()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	return &Image{h: h, inner: inner, at: -1}, nil
}

// Size is that of the disk, in bytes.
func (im *Image) Size() uint64 { return im.h.size }

// ReadAt fills p from off on; all of it lies on the disk. A part of the image that is
// broken is an error, and costs a few clusters at most.
func (im *Image) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || uint64(off) > im.h.size || uint64(len(p)) > im.h.size-uint64(off) {
		return 0, refuse("a read of %d bytes at %d, outside of the disk", len(p), off)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	cluster := int64(1) << im.h.clusterBits
	for n < len(p) {
		begin := (off + int64(n)) &^ (cluster - 1)
		part := p[n:min(int64(len(p)), begin+cluster-off)]
		if err := im.readCluster(part, off+int64(n), begin); err != nil {
			return n, fmt.Errorf("%w: at %d: %w", ErrImage, off+int64(n), err)
		}
		n += len(part)
	}
	return n, nil
}

// readCluster reads from one cluster, which begins at begin. What is compressed is
// kept: it is mostly read in small pieces. mu is held.
func (im *Image) readCluster(p []byte, off, begin int64) error {
	length := min(int64(1)<<im.h.clusterBits, int64(im.h.size)-begin)
	if im.at != begin {
		e, err := im.inner.Extent(begin, length)
		if err != nil {
			return err
		}
		if !e.Compressed {
			return full(im.inner.ReadAt(p, off))(len(p))
		}
		im.at = -1
		if im.plain == nil {
			im.plain = make([]byte, 1<<im.h.clusterBits)
		}
		if err := full(im.inner.ReadAt(im.plain[:length], begin))(int(length)); err != nil {
			return err
		}
		im.at = begin
	}
	copy(p, im.plain[off-begin:length])
	return nil
}

// full is the error of a read that should have had so many bytes.
func full(n int, err error) func(want int) error {
	return func(want int) error {
		switch {
		case n == want:
			return nil
		case err == nil || errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		}
		return err
	}
}

// judged is the file with the header that it should have.
type judged struct {
	io.ReaderAt
	header []byte
}

func (j *judged) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("a place before the file's begin")
	}
	if off >= int64(len(j.header)) {
		return j.ReaderAt.ReadAt(p, off)
	}
	n := copy(p, j.header[off:])
	if n == len(p) {
		return n, nil
	}
	m, err := j.ReaderAt.ReadAt(p[n:], off+int64(n))
	return n + m, err
}

// setDecompressors has the library use readers whose reads are whole: it would begin
// a cluster anew for each that is short.
var setDecompressors = sync.OnceFunc(func() {
	qcow2.SetDecompressor(qcow2.CompressionTypeZlib, func(r io.Reader) (io.ReadCloser, error) { return inflate(r), nil })
	qcow2.SetDecompressor(qcow2.CompressionTypeZstd, func(r io.Reader) (io.ReadCloser, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		return whole{d.IOReadCloser()}, nil
	})
})
