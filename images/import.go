package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// SourceType is a kind of file or directory that Import reads.
type SourceType string

// The kinds of source.
const (
	Auto          SourceType = ""       // find out
	OCI           SourceType = "oci"    // OCI image layout: directory or tar
	DockerArchive SourceType = "docker" // what docker save writes
	RootTar       SourceType = "rootfs" // a root file system as a tar, or a directory
)

// ImportOptions say how to read a source. Archives may be compressed with gzip,
// zstd or xz.
type ImportOptions struct {
	Type SourceType
	// SourceRef picks one image out of a source that holds several: a
	// reference as the source names it.
	SourceRef string
	// Platform picks out of a multi-platform image; zero is Linux on this
	// machine's processor. An image for another platform is refused.
	Platform ocispec.Platform
	// Config is the default process of an image made from a root file
	// system; other sources bring their own.
	Config ocispec.ImageConfig
	// Created is recorded in an image made from a root file system; zero
	// leaves it out, so that the same tar always gives the same image.
	Created time.Time
	Rootfs  RootfsOptions
}

// Import reads an image from a file or directory and names it ref. Its root file
// system image is built at once, so an image that is in the store is one that
// can be used. After an error the store is as it was.
func (s *Store) Import(ctx context.Context, source, ref string, opt ImportOptions) (_ *Image, err error) {
	full, err := NormalizeReference(ref)
	if err != nil {
		return nil, err
	}
	if opt.Platform.OS == "" && opt.Platform.Architecture == "" {
		opt.Platform = defaultPlatform()
	}
	t, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.close(false)) }()

	im, err := t.importSource(ctx, source, full, opt)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", source, err)
	}
	return im, nil
}

func (t *txn) importSource(ctx context.Context, source, ref string, opt ImportOptions) (*Image, error) {
	src, err := t.s.openSource(ctx, source, opt.Type)
	if err != nil {
		return nil, err
	}
	defer func() { _ = src.Close() }() // only read from
	var d ocispec.Descriptor
	switch src.kind {
	case OCI:
		d, err = t.importOCI(ctx, src.files, opt)
	case DockerArchive:
		d, err = t.importDocker(ctx, src.files, opt)
	case RootTar:
		d, err = t.importRoot(ctx, src, opt)
	default:
		err = fmt.Errorf("%w: source type %q, want oci, docker or rootfs", ErrUnsupported, src.kind)
	}
	if err != nil {
		return nil, err
	}
	return t.finish(ctx, ref, d, opt.Platform, opt.Rootfs)
}

// finish checks and builds an image whose blobs are in, and names it.
func (t *txn) finish(ctx context.Context, ref string, d ocispec.Descriptor, want ocispec.Platform, opt RootfsOptions) (*Image, error) {
	im, err := t.s.loadImage(d)
	if err != nil {
		return nil, err
	}
	im.Ref = ref
	if err := checkPlatform(FamiliarReference(ref), im.Config.Platform, want); err != nil {
		return nil, err
	}
	built := t.s.derivedPath(d.Digest)
	_, statErr := os.Stat(built)
	if _, err := t.s.buildRootfs(ctx, im, opt); err != nil {
		return nil, err
	}
	if err := t.commit(ctx, ref, d); err != nil {
		if errors.Is(statErr, os.ErrNotExist) {
			t.derived = append(t.derived, built, t.s.buildLockPath(d.Digest))
		}
		return nil, err
	}
	return im, nil
}

// putJSON stores a manifest or configuration of our own making.
func (t *txn) putJSON(ctx context.Context, mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return t.putBytes(ctx, b, ocispec.Descriptor{MediaType: mediaType, Size: int64(len(b))})
}

// putManifest stores the manifest of an image made here.
func (t *txn) putManifest(ctx context.Context, config ocispec.Descriptor, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	return t.putJSON(ctx, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    layers,
	})
}
