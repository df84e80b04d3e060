package images

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// compression is how a stream is compressed, as its first bytes tell. The media
// type is not asked: the digest of the uncompressed contents decides in the end.
type compression string

const (
	plain   compression = ""
	gzipped compression = "gzip"
	zstded  compression = "zstd"
	xzed    compression = "xz"
)

var magics = []struct {
	c     compression
	bytes string
}{
	{gzipped, "\x1f\x8b"},
	{zstded, "\x28\xb5\x2f\xfd"},
	{xzed, "\xfd7zXZ\x00"},
}

// maxWindow bounds the memory of a zstd decoder; the format allows far more.
const maxWindow = 128 << 20

func sniff(head []byte) compression {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.bytes)) {
			return m.c
		}
	}
	return plain
}

// decompress returns the uncompressed stream of r. Closing it does not close r.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch c := sniff(head); c {
	case gzipped:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("%w: gzip: %w", ErrBadImage, err)
		}
		return z, nil
	case zstded:
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %w", ErrBadImage, err)
		}
		return z.IOReadCloser(), nil
	case xzed:
		z, err := xz.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("%w: xz: %w", ErrBadImage, err)
		}
		return io.NopCloser(z), nil
	default:
		return io.NopCloser(br), nil
	}
}
