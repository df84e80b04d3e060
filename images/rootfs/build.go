package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/hvctl/hvctl/images/erofs"
)

// FormatVersion changes whenever the same layers would give other bytes.
const FormatVersion = 2

// Layer is one layer of an image.
type Layer struct {
	Name string // for messages, such as its digest
	// DiffID is what the uncompressed layer must hash to. Empty: unchecked.
	DiffID digest.Digest
	// Open returns the layer as an uncompressed tar stream.
	Open func() (io.ReadCloser, error)
}

// Options bound what a build may use.
type Options struct {
	UUID [16]byte // see erofs.Options
	// MaxFiles bounds the number of files and directories; 0 means 1 << 20.
	MaxFiles int
	// MaxBytes bounds the bytes of all uncompressed layers together, file
	// contents (holes included) and archive headers; 0 means 64 GiB.
	MaxBytes int64
}

const (
	defaultMaxFiles = 1 << 20
	defaultMaxBytes = 64 << 30
	// maxNames bounds names, link targets and attributes, which are held in
	// memory until the image is finished.
	maxNames = 256 << 20
)

// Info says what a build made.
type Info struct {
	erofs.Info
	// DroppedXattrs counts extended attributes that were left out because
	// EROFS cannot hold them or because they would steer an overlay.
	DroppedXattrs int
}

type builder struct {
	ctx     context.Context
	w       *erofs.Writer
	t       *tree
	bytes   int64 // of uncompressed layers, left of MaxBytes
	content int64 // of files, holes included, left of MaxBytes
	opt     Options
	names   int
	dropped int
}

// Build writes the image of the layers, lowest first, into an empty file. On an
// error the file's contents are of no use.
func Build(ctx context.Context, f erofs.File, layers []Layer, opt Options) (Info, error) {
	if opt.MaxFiles == 0 {
		opt.MaxFiles = defaultMaxFiles
	}
	if opt.MaxBytes == 0 {
		opt.MaxBytes = defaultMaxBytes
	}
	b := &builder{
		ctx: ctx, opt: opt, bytes: opt.MaxBytes, content: opt.MaxBytes,
		w: erofs.NewWriter(f, erofs.Options{UUID: opt.UUID, Label: "hvctl"}),
		t: newTree(opt.MaxFiles),
	}
	for i, l := range layers {
		b.t.layer = i
		if err := b.apply(l); err != nil {
			return Info{}, fmt.Errorf("layer %s: %w", l.Name, err)
		}
	}
	info, err := b.w.Finish(b.t.root.inodes())
	return Info{Info: info, DroppedXattrs: b.dropped}, err
}

// apply reads one layer to its end, so that its digest covers every byte.
func (b *builder) apply(l Layer) (err error) {
	rc, err := l.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()

	src := &source{b: b, r: rc}
	if l.DiffID != "" {
		if err := l.DiffID.Validate(); err != nil {
			return fmt.Errorf("%w: diff ID %.80q: %w", ErrDiffID, l.DiffID, err)
		}
		src.sum = l.DiffID.Algorithm().Digester()
	}
	buf := bufio.NewReaderSize(src, 256<<10)
	tr := tar.NewReader(buf)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return b.readError(err)
		}
		if err := b.entry(h, tr); err != nil {
			return fmt.Errorf("entry %.200q: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, buf); err != nil {
		return b.readError(err)
	}
	if src.sum != nil {
		if got := src.sum.Digest(); got != l.DiffID {
			return fmt.Errorf("%w: contents are %s, the image says %s", ErrDiffID, got, l.DiffID)
		}
	}
	return nil
}

// readError names a failure to read the archive, unless it was our own doing.
func (b *builder) readError(err error) error {
	if errors.Is(err, ErrLimit) || b.ctx.Err() != nil {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the archive is truncated: %w", ErrBadLayer, err)
	}
	return fmt.Errorf("%w: %w", ErrBadLayer, err)
}

func (b *builder) entry(h *tar.Header, contents io.Reader) error {
	e, err := parseEntry(h)
	if err != nil || e.act == actSkip {
		return err
	}
	b.dropped += e.dropped
	if err := b.countNames(e); err != nil {
		return err
	}
	if e.act == actRoot {
		b.t.root.inode, b.t.root.layer = e.inode, b.t.layer
		return nil
	}
	create := e.act == actPut || e.act == actLink
	dir, err := b.t.lookupDir(e.dir, create)
	if err != nil || dir == nil {
		return err
	}
	switch e.act {
	case actSkip, actRoot: // done above
	case actWhiteout:
		b.t.whiteout(dir, e.name)
	case actOpaque:
		b.t.opaque(dir)
	case actLink:
		return b.t.link(dir, e.name, e.target)
	case actPut:
		// A sparse file can be far larger than its archive.
		if e.size > b.content {
			return b.tooLarge()
		}
		b.content -= e.size
		if e.size > 0 {
			if e.inode.Data, err = b.w.WriteData(ctxReader{b.ctx, contents}, uint64(e.size)); err != nil {
				return b.contentsError(err)
			}
		}
		_, err := b.t.put(dir, e.name, e.inode)
		return err
	}
	return nil
}

// contentsError tells a damaged archive from a full disk.
func (b *builder) contentsError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) {
		return b.readError(err)
	}
	return err
}

func (b *builder) countNames(e entry) error {
	b.names += len(e.name)
	if e.inode != nil {
		b.names += len(e.inode.Target)
		for _, x := range e.inode.Xattrs {
			b.names += len(x.Name) + len(x.Value)
		}
	}
	if b.names > maxNames {
		return fmt.Errorf("%w: names, link targets and attributes exceed %d bytes", ErrLimit, maxNames)
	}
	return nil
}

func (b *builder) tooLarge() error {
	return fmt.Errorf("%w: more than %d bytes uncompressed", ErrLimit, b.opt.MaxBytes)
}

// ctxReader ends long runs of zeros, which come without reading the source.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// source counts, hashes and can interrupt what is read of a layer.
type source struct {
	b   *builder
	r   io.Reader
	sum digest.Digester
}

func (s *source) Read(p []byte) (int, error) {
	if err := context.Cause(s.b.ctx); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	if s.b.bytes -= int64(n); s.b.bytes < 0 {
		return 0, s.b.tooLarge()
	}
	if s.sum != nil {
		_, _ = s.sum.Hash().Write(p[:n])
	}
	return n, err
}
