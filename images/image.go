package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image in a store.
type Image struct {
	// Ref is the normalized reference under which it was found; empty when
	// it was found by digest and has several.
	Ref string
	// Digest is that of the manifest.
	Digest digest.Digest
	// Config is the image's configuration: Config.Config has the default
	// process (Env, Entrypoint, Cmd, User, WorkingDir, StopSignal, ...).
	Config ocispec.Image
	// Created is the configuration's time; zero if it has none.
	Created time.Time
	// Size is the bytes of the image's blobs, as stored.
	Size int64

	manifest ocispec.Descriptor
	layers   []ocispec.Descriptor
}

// CheckPlatform returns an error wrapping ErrArchMismatch unless the image is
// for Linux on this machine's processor.
func (m *Image) CheckPlatform() error {
	return checkPlatform(m.Ref, m.Config.Platform, defaultPlatform())
}

func defaultPlatform() ocispec.Platform {
	return ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

func checkPlatform(ref string, have, want ocispec.Platform) error {
	if platformMatches(have, want) {
		return nil
	}
	return fmt.Errorf("%w: %s is for %s, want %s", ErrArchMismatch, ref, platformString(have), platformString(want))
}

// platformMatches compares what both sides say. An image that says nothing (as
// old tools leave it) is taken to fit.
func platformMatches(have, want ocispec.Platform) bool {
	same := func(a, b string) bool { return a == "" || b == "" || a == b }
	return same(have.OS, want.OS) && same(have.Architecture, want.Architecture) && same(have.Variant, want.Variant)
}

func platformString(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// shortDigest is a digest as people abbreviate it; long enough not to be a name.
var shortDigest = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(sha256:)?[0-9a-f]{12,64}$`) })

// Resolve finds an image by reference, or by its manifest's digest, whole or
// cut to 12 digits or more. The error wraps ErrNotFound, ErrAmbiguous or
// ErrBadReference.
func (s *Store) Resolve(_ context.Context, ref string) (*Image, error) {
	idx, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	d, err := find(idx, ref)
	if err != nil {
		return nil, err
	}
	return s.load(d)
}

func find(idx ocispec.Index, ref string) (ocispec.Descriptor, error) {
	full, refErr := NormalizeReference(ref)
	if refErr == nil {
		for _, d := range idx.Manifests {
			if refOf(d) == full {
				return d, nil
			}
		}
	}
	if shortDigest().MatchString(ref) {
		return findDigest(idx, ref)
	}
	if refErr != nil {
		return ocispec.Descriptor{}, refErr
	}
	// NAME@DIGEST finds an image that was pulled by tag, too.
	if _, dig, ok := strings.Cut(full, "@"); ok {
		if d, err := findDigest(idx, dig); err == nil {
			return d, nil
		}
	}
	return ocispec.Descriptor{}, notFound(FamiliarReference(full))
}

func findDigest(idx ocispec.Index, short string) (ocispec.Descriptor, error) {
	short = strings.TrimPrefix(short, "sha256:")
	var found ocispec.Descriptor
	for _, d := range idx.Manifests {
		if !strings.HasPrefix(d.Digest.Encoded(), short) {
			continue
		}
		if found.Digest != "" && found.Digest != d.Digest {
			return found, fmt.Errorf("%w %s: give more digits", ErrAmbiguous, short)
		}
		if found.Digest != "" {
			d.Annotations = nil
		}
		found = d
	}
	if found.Digest == "" {
		return found, notFound(short)
	}
	return found, nil
}

// load reads manifest and configuration of an image of the index.
func (s *Store) load(d ocispec.Descriptor) (*Image, error) {
	im, err := s.loadImage(d)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: it was removed, or the store is damaged: %w", ErrNotFound, err)
		}
		return nil, fmt.Errorf("image %s: %w", d.Digest, err)
	}
	im.Ref = refOf(d)
	return im, nil
}

func (s *Store) loadImage(d ocispec.Descriptor) (*Image, error) {
	raw, err := s.readBlob(d, maxManifest)
	if err != nil {
		return nil, err
	}
	m, err := decodeManifest(raw)
	if err != nil {
		return nil, err
	}
	rawConfig, err := s.readBlob(m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	c, err := decodeConfig(rawConfig, m)
	if err != nil {
		return nil, err
	}
	im := &Image{Digest: d.Digest, Config: c, manifest: d, layers: m.Layers, Size: int64(len(raw)) + m.Config.Size}
	for _, l := range m.Layers {
		im.Size += l.Size
	}
	if c.Created != nil {
		im.Created = *c.Created
	}
	return im, nil
}

// List returns every image, one per reference, in the order they were added.
// Images that cannot be read are left out and named in the error, which comes
// beside the readable ones.
func (s *Store) List(_ context.Context) ([]*Image, error) {
	idx, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var out []*Image
	var errs []error
	for _, d := range idx.Manifests {
		im, err := s.load(d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, im)
	}
	return out, errors.Join(errs...)
}

// Tag gives the image src the further reference dst. If dst meant another image
// it no longer does.
func (s *Store) Tag(ctx context.Context, src, dst string) error {
	full, err := NormalizeReference(dst)
	if err != nil {
		return err
	}
	if strings.Contains(full, "@") {
		return fmt.Errorf("%w %.200q: a tag cannot have a digest", ErrBadReference, dst)
	}
	return s.updateIndex(ctx, func(idx *ocispec.Index) error {
		d, err := find(*idx, src)
		if err != nil {
			return err
		}
		setRef(idx, full, d)
		return nil
	})
}
