package boot

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/pierrec/lz4/v4"
)

const (
	// maxUnpacked bounds the kernel inside a bzImage. Distribution kernels
	// unpack to 50 to 80 MB.
	maxUnpacked = 512 << 20
	// maxWindow is the largest window the kernel's own build uses: zstd -22
	// --ultra, and xz with dict=128MiB.
	maxWindow = 128 << 20
)

// packing is one way to compress a kernel, told by the payload's first bytes.
type packing struct {
	name  string
	magic string
	// sized: the kernel's build appends the unpacked size in 4 bytes. gzip
	// ends with the same number as part of its own format.
	sized bool
	open  func(io.Reader) (io.Reader, error) // nil: not supported
}

var packings = []packing{
	{name: "gzip", magic: "\x1f\x8b", open: func(r io.Reader) (io.Reader, error) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		z.Multistream(false)
		return z, nil
	}},
	{name: "xz", magic: "\xfd7zXZ\x00", sized: true, open: func(r io.Reader) (io.Reader, error) {
		return xz.NewReader(r, maxWindow) // needs the x86 branch filter, which the kernel's build uses
	}},
	{name: "zstd", magic: "\x28\xb5\x2f\xfd", sized: true, open: func(r io.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxUnpacked))
	}},
	{name: "lz4", magic: "\x02\x21\x4c\x18", sized: true, open: func(r io.Reader) (io.Reader, error) {
		return lz4.NewReader(r), nil // the "legacy" frame
	}},
	{name: "bzip2", magic: "BZh", sized: true, open: func(r io.Reader) (io.Reader, error) {
		return bzip2.NewReader(r), nil
	}},
	{name: "lzma", magic: "\x5d\x00\x00"},
	{name: "lzo", magic: "\x89LZO"},
	{name: "none", magic: "\x7fELF"},
}

// identify finds how the payload is packed and how large the kernel in it is.
func (h *bzHeader) identify(f io.ReaderAt) (size int64, err error) {
	p := h.payload(f)
	var first [8]byte
	var last [4]byte
	if err := readFull(p, first[:], 0, p.Size()); err != nil {
		return 0, err
	}
	if err := readFull(p, last[:], p.Size()-4, p.Size()); err != nil {
		return 0, err
	}
	for _, k := range packings {
		if !bytes.HasPrefix(first[:], []byte(k.magic)) {
			continue
		}
		h.packing = k
		if k.open == nil {
			return 0, fmt.Errorf("%w: %w: packed with %s; use a kernel packed with gzip, xz, zstd, lz4 or bzip2, or its vmlinux", ErrKernel, ErrCompression, k.name)
		}
		size = int64(binary.LittleEndian.Uint32(last[:]))
		if size > maxUnpacked {
			return 0, bad("says it unpacks to %d MiB, more than %d", size>>20, maxUnpacked>>20)
		}
		return size, nil
	}
	return 0, fmt.Errorf("%w: %w: packed in an unknown way (payload starts with % x)", ErrKernel, ErrCompression, first)
}

// unpackTo writes the size bytes of the kernel in the bzImage f to w. Call
// identify first.
func (h *bzHeader) unpackTo(w io.Writer, f io.ReaderAt, size int64) error {
	p := h.payload(f)
	if h.packing.sized {
		p = io.NewSectionReader(p, 0, p.Size()-4)
	}
	z, err := h.packing.open(bufio.NewReaderSize(p, 256<<10))
	if err != nil {
		return bad("damaged %s payload: %v", h.packing.name, err)
	}
	if c, ok := z.(interface{ Close() }); ok {
		defer c.Close()
	}
	out := &errWriter{w: w}
	// One byte more than promised is enough to know that it lied.
	n, err := io.CopyBuffer(out, io.LimitReader(z, size+1), make([]byte, 256<<10))
	switch {
	case out.err != nil:
		return fmt.Errorf("unpack: %w", out.err)
	case err != nil:
		return bad("damaged %s payload after %d bytes: %v", h.packing.name, n, err)
	case n > size:
		return bad("unpacks to more than the %d bytes it says", size)
	case n < size:
		return bad("unpacks to %d bytes, not the %d it says", n, size)
	}
	return nil
}

// errWriter remembers the error of w, so that a full disk is not taken for
// damaged input. It hides any ReadFrom of w.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(p []byte) (int, error) {
	n, err := e.w.Write(p)
	e.err = errors.Join(e.err, err)
	return n, err
}

// sparseWriter writes a file and leaves holes where the input is zero. A
// kernel's payload carries its whole bss; holes let Load skip it.
type sparseWriter struct {
	f   *os.File
	off int64
	buf []byte // less than a block, waiting for the rest
}

const sparseBlock = 4096

var zeroBlock [sparseBlock]byte

func (s *sparseWriter) Write(p []byte) (int, error) {
	n := len(p)
	if len(s.buf) > 0 {
		k := min(sparseBlock-len(s.buf), len(p))
		s.buf = append(s.buf, p[:k]...)
		p = p[k:]
		if len(s.buf) < sparseBlock {
			return n, nil
		}
		if err := s.blocks(s.buf); err != nil {
			return 0, err
		}
		s.buf = s.buf[:0]
	}
	whole := len(p) &^ (sparseBlock - 1)
	if err := s.blocks(p[:whole]); err != nil {
		return 0, err
	}
	s.buf = append(s.buf, p[whole:]...)
	return n, nil
}

// blocks writes whole blocks at s.off, joining neighbours that hold data.
func (s *sparseWriter) blocks(p []byte) error {
	start := 0
	flush := func(end int) error {
		if start == end {
			return nil
		}
		_, err := s.f.WriteAt(p[start:end], s.off+int64(start))
		return err
	}
	for at := 0; at < len(p); at += sparseBlock {
		if !bytes.Equal(p[at:at+sparseBlock], zeroBlock[:]) {
			continue
		}
		if err := flush(at); err != nil {
			return err
		}
		start = at + sparseBlock
	}
	if err := flush(len(p)); err != nil {
		return err
	}
	s.off += int64(len(p))
	return nil
}

// finish writes what is left and sets the file's length.
func (s *sparseWriter) finish() error {
	if _, err := s.f.WriteAt(s.buf, s.off); err != nil {
		return err
	}
	return s.f.Truncate(s.off + int64(len(s.buf)))
}
