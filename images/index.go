package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	maxIndex    = 64 << 20 // of the store's own index.json
	maxManifest = 4 << 20  // as registries allow
	maxConfig   = 8 << 20
	maxLayers   = 512
)

func emptyIndex() ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
}

// readIndex reads index.json. It needs no lock: the file is replaced whole.
func (s *Store) readIndex() (ocispec.Index, error) {
	f, err := os.Open(s.path(ocispec.ImageIndexFile))
	if err != nil {
		return ocispec.Index{}, err
	}
	defer f.Close()
	b, err := readAll(f, maxIndex)
	if err != nil {
		return ocispec.Index{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	idx, err := decodeIndex(b)
	if err != nil {
		return idx, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return idx, nil
}

func (s *Store) writeIndex(idx ocispec.Index) error {
	b, err := json.MarshalIndent(idx, "", "  ")
	if err != nil {
		return err
	}
	return s.writeFile(ocispec.ImageIndexFile, append(b, '\n'))
}

// updateIndex changes index.json. If change returns an error, nothing happens.
func (s *Store) updateIndex(ctx context.Context, change func(*ocispec.Index) error) error {
	lock, err := lockFile(ctx, s.path("index.lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	idx, err := s.readIndex()
	if err != nil {
		return err
	}
	if err := change(&idx); err != nil {
		return err
	}
	return s.writeIndex(idx)
}

func refOf(d ocispec.Descriptor) string { return d.Annotations[ocispec.AnnotationRefName] }

// setRef points a reference at a manifest.
func setRef(idx *ocispec.Index, ref string, d ocispec.Descriptor) {
	dropRef(idx, ref)
	d.Annotations = map[string]string{ocispec.AnnotationRefName: ref}
	idx.Manifests = append(idx.Manifests, d)
}

func dropRef(idx *ocispec.Index, ref string) (found bool) {
	kept := idx.Manifests[:0]
	for _, d := range idx.Manifests {
		if refOf(d) == ref {
			found = true
			continue
		}
		kept = append(kept, d)
	}
	idx.Manifests = kept
	return found
}

// readAll reads at most limit bytes and refuses more.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: larger than %d bytes", ErrBadImage, limit)
	}
	return b, err
}

// decodeIndex reads an OCI index or a docker manifest list.
func decodeIndex(b []byte) (ocispec.Index, error) {
	var idx ocispec.Index
	if err := decodeJSON(b, &idx); err != nil {
		return idx, fmt.Errorf("%w: index: %w", ErrBadImage, err)
	}
	for _, d := range idx.Manifests {
		if err := checkDescriptor(d); err != nil {
			return idx, fmt.Errorf("index: %w", err)
		}
	}
	return idx, nil
}

// decodeManifest reads an OCI or docker (schema 2) manifest.
func decodeManifest(b []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := decodeJSON(b, &m); err != nil {
		return m, fmt.Errorf("%w: manifest: %w", ErrBadImage, err)
	}
	if m.SchemaVersion != 2 {
		return m, fmt.Errorf("%w: manifest of schema version %d, want 2", ErrUnsupported, m.SchemaVersion)
	}
	if len(m.Layers) > maxLayers {
		return m, fmt.Errorf("%w: %d layers, limit %d", ErrBadImage, len(m.Layers), maxLayers)
	}
	if err := checkDescriptor(m.Config); err != nil {
		return m, fmt.Errorf("configuration: %w", err)
	}
	if m.Config.Size > maxConfig {
		return m, fmt.Errorf("%w: configuration of %d bytes, limit %d", ErrBadImage, m.Config.Size, maxConfig)
	}
	for i, l := range m.Layers {
		if err := checkDescriptor(l); err != nil {
			return m, fmt.Errorf("layer %d: %w", i, err)
		}
		if len(l.URLs) > 0 {
			return m, fmt.Errorf("%w: layer %d is kept outside the registry (a foreign layer)", ErrUnsupported, i)
		}
	}
	return m, nil
}

// decodeConfig reads an image configuration and checks it against its manifest.
func decodeConfig(b []byte, m ocispec.Manifest) (ocispec.Image, error) {
	var c ocispec.Image
	if err := decodeJSON(b, &c); err != nil {
		return c, fmt.Errorf("%w: configuration: %w", ErrBadImage, err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return c, fmt.Errorf("%w: configuration lists %d layers, manifest %d", ErrBadImage, len(c.RootFS.DiffIDs), len(m.Layers))
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := checkDigest(d); err != nil {
			return c, fmt.Errorf("diff ID: %w", err)
		}
	}
	return c, nil
}

func checkDescriptor(d ocispec.Descriptor) error {
	if d.Size < 0 {
		return fmt.Errorf("%w: negative size %d", ErrBadImage, d.Size)
	}
	return checkDigest(d.Digest)
}

// checkDigest allows only what may become a file name in blobs/sha256.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%w: digest %.100q: %w", ErrBadImage, d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%w: digest algorithm %q, want sha256", ErrUnsupported, d.Algorithm())
	}
	return nil
}

// decodeJSON decodes one value and refuses anything behind it. Unknown fields
// are allowed, as the specification demands.
func decodeJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("trailing data")
	}
	return nil
}
