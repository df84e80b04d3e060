package images

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types for what OCI has its own.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

// maxNesting bounds indexes within indexes.
const maxNesting = 4

// importOCI copies one image out of an OCI image layout.
func (t *txn) importOCI(ctx context.Context, fl files, opt ImportOptions) (ocispec.Descriptor, error) {
	raw, err := readFile(fl, ocispec.ImageIndexFile, maxIndex)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for range maxNesting {
		idx, err := decodeIndex(raw)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		d, err := choose(idx, opt.SourceRef, opt.Platform)
		if err != nil {
			return d, err
		}
		if raw, err = readVerified(fl, d); err != nil {
			return d, err
		}
		if !isIndex(d.MediaType) {
			return t.copyOCI(ctx, fl, d, raw, opt)
		}
		opt.SourceRef = "" // the name was for the outermost index
	}
	return ocispec.Descriptor{}, fmt.Errorf("%w: indexes nested deeper than %d", ErrBadImage, maxNesting)
}

// copyOCI takes over a manifest and what it refers to.
func (t *txn) copyOCI(ctx context.Context, fl files, d ocispec.Descriptor, raw []byte, opt ImportOptions) (ocispec.Descriptor, error) {
	m, err := decodeManifest(raw)
	if err != nil {
		return d, err
	}
	rawConfig, err := readVerified(fl, m.Config)
	if err != nil {
		return d, fmt.Errorf("configuration: %w", err)
	}
	c, err := decodeConfig(rawConfig, m)
	if err != nil {
		return d, err
	}
	// Before the layers are copied in vain.
	if err := checkPlatform("the image", c.Platform, opt.Platform); err != nil {
		return d, err
	}
	if _, err := t.putBytes(ctx, rawConfig, m.Config); err != nil {
		return d, err
	}
	for _, l := range m.Layers {
		if err := t.copyBlob(ctx, fl, l, opt.Rootfs.Progress); err != nil {
			return d, err
		}
	}
	return t.putBytes(ctx, raw, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
}

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

func (t *txn) copyBlob(ctx context.Context, fl files, d ocispec.Descriptor, p Progress) error {
	r, size, err := fl.open(blobName(d.Digest))
	if err != nil {
		return fmt.Errorf("%w: layer: %w", ErrBadImage, err)
	}
	defer r.Close()
	if size != d.Size {
		return fmt.Errorf("%w: blob %s is announced with %d bytes, has %d", ErrDigestMismatch, d.Digest, d.Size, size)
	}
	counted, end := p.start(PhaseImport, d.Digest.Encoded()[:12], d.Size, r)
	defer end()
	_, err = t.put(ctx, counted, d)
	return err
}

func (t *txn) putBytes(ctx context.Context, b []byte, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	return t.put(ctx, bytes.NewReader(b), d)
}

// readVerified reads a small blob of a source. The descriptor has been checked.
func readVerified(fl files, d ocispec.Descriptor) ([]byte, error) {
	b, err := readFile(fl, blobName(d.Digest), maxConfig)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != d.Digest || int64(len(b)) != d.Size {
		return nil, fmt.Errorf("%w: blob %s has the contents of %s", ErrDigestMismatch, d.Digest, got)
	}
	return b, nil
}

// choose picks an entry of an index: by name if one is given, then by platform.
func choose(idx ocispec.Index, ref string, want ocispec.Platform) (ocispec.Descriptor, error) {
	var fit []ocispec.Descriptor
	var names, platforms []string
	for _, d := range idx.Manifests {
		if !isIndex(d.MediaType) && !isManifest(d.MediaType) {
			continue
		}
		if n := refOf(d); n != "" {
			names = append(names, n)
		}
		if ref != "" && !namedBy(d, ref) {
			continue
		}
		if d.Platform != nil {
			if d.Platform.OS == "unknown" { // an attestation, not an image
				continue
			}
			platforms = append(platforms, platformString(*d.Platform))
			if !platformMatches(*d.Platform, want) {
				continue
			}
		}
		if !slices.ContainsFunc(fit, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
			fit = append(fit, d)
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) > 1 && len(names) > 1:
		return ocispec.Descriptor{}, fmt.Errorf("%w: the source holds %s: say which", ErrAmbiguous, list(names))
	case len(fit) > 1:
		return fit[0], nil // variants that fit equally well: the first is preferred
	case len(platforms) > 0:
		return ocispec.Descriptor{}, fmt.Errorf("%w: want %s, the image is for %s", ErrArchMismatch, platformString(want), list(platforms))
	case ref != "" && len(names) > 0:
		return ocispec.Descriptor{}, fmt.Errorf("%w: %s is not in the source, which holds %s", ErrNotFound, ref, list(names))
	}
	return ocispec.Descriptor{}, fmt.Errorf("%w: the source holds no image", ErrNotFound)
}

// namedBy compares names as given and in full.
func namedBy(d ocispec.Descriptor, ref string) bool {
	have := []string{refOf(d), d.Annotations["io.containerd.image.name"]}
	full, err := NormalizeReference(ref)
	for _, h := range have {
		if h == "" {
			continue
		}
		if h == ref {
			return true
		}
		if n, nErr := NormalizeReference(h); err == nil && nErr == nil && n == full {
			return true
		}
	}
	return false
}

// list joins a few items for a message.
func list(items []string) string {
	slices.Sort(items)
	items = slices.Compact(items)
	const most = 12
	if len(items) > most {
		return strings.Join(items[:most], ", ") + fmt.Sprintf(" and %d more", len(items)-most)
	}
	return strings.Join(items, ", ")
}
