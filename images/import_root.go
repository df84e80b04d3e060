package images

import (
	"bufio"
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// importRoot makes an image of one layer from a root file system.
func (t *txn) importRoot(ctx context.Context, src *source, opt ImportOptions) (ocispec.Descriptor, error) {
	layer, diffID, err := t.rootLayer(ctx, src, opt.Rootfs.Progress)
	if err != nil {
		return layer, err
	}
	c := ocispec.Image{
		Platform: opt.Platform,
		Config:   opt.Config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History:  []ocispec.History{{CreatedBy: "hvctl import"}},
	}
	if !opt.Created.IsZero() {
		created := opt.Created.UTC().Truncate(time.Second)
		c.Created = &created
	}
	config, err := t.putJSON(ctx, ocispec.MediaTypeImageConfig, c)
	if err != nil {
		return config, err
	}
	return t.putManifest(ctx, config, []ocispec.Descriptor{layer})
}

// rootLayer stores the layer as it comes, except that xz, which OCI has no media
// type for, is unpacked; a directory becomes a tar.
func (t *txn) rootLayer(ctx context.Context, src *source, p Progress) (ocispec.Descriptor, digest.Digest, error) {
	want := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: -1}
	if src.isDir {
		r, w := io.Pipe()
		go func() { w.CloseWithError(archiveDir(ctx, w, src.path)) }()
		counted, end := p.start(PhaseImport, src.path, -1, r)
		defer end()
		d, err := t.put(ctx, counted, want)
		// Wakes the writer if put has given up.
		return d, d.Digest, errors.Join(err, r.Close())
	}
	st, err := src.file.Stat()
	if err != nil {
		return want, "", err
	}
	counted, end := p.start(PhaseImport, src.path, st.Size(), src.file)
	defer end()
	br := bufio.NewReader(counted)
	head, err := br.Peek(6)
	if err != nil {
		return want, "", err
	}
	switch sniff(head) {
	case plain:
		d, err := t.put(ctx, br, want)
		return d, d.Digest, err
	case xzed:
		r, err := decompress(br)
		if err != nil {
			return want, "", err
		}
		d, err := t.put(ctx, io.LimitReader(r, maxUnpacked), want)
		return d, d.Digest, errors.Join(err, r.Close())
	case gzipped:
		want.MediaType = ocispec.MediaTypeImageLayerGzip
	case zstded:
		want.MediaType = ocispec.MediaTypeImageLayerZstd
	}
	d, err := t.put(ctx, br, want)
	if err != nil {
		return d, "", err
	}
	diffID, err := t.s.diffID(ctx, d)
	return d, diffID, err
}

// diffID returns the digest of a stored layer's uncompressed contents.
func (s *Store) diffID(ctx context.Context, d ocispec.Descriptor) (digest.Digest, error) {
	f, err := s.openBlob(d.Digest)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r, err := decompress(f)
	if err != nil {
		return "", err
	}
	defer r.Close()
	sum := digest.SHA256.Digester()
	if _, err := copyContext(ctx, sum.Hash(), io.LimitReader(r, maxUnpacked)); err != nil {
		return "", errors.Join(ErrBadImage, truncated(err))
	}
	return sum.Digest(), nil
}
