package images

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerEntry is one image of a docker archive's manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// importDocker copies one image out of what docker save writes. The archive has
// no OCI manifest, so one is made; the configuration is taken over as it is.
func (t *txn) importDocker(ctx context.Context, fl files, opt ImportOptions) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	raw, err := readFile(fl, "manifest.json", maxManifest)
	if err != nil {
		return none, err
	}
	var all []dockerEntry
	if err := decodeJSON(raw, &all); err != nil {
		return none, fmt.Errorf("%w: manifest.json: %w", ErrBadImage, err)
	}
	e, err := chooseDocker(all, opt.SourceRef)
	if err != nil {
		return none, err
	}
	if len(e.Layers) > maxLayers {
		return none, fmt.Errorf("%w: %d layers, limit %d", ErrBadImage, len(e.Layers), maxLayers)
	}
	rawConfig, err := readFile(fl, e.Config, maxConfig)
	if err != nil {
		return none, fmt.Errorf("configuration: %w", err)
	}
	c, err := decodeConfig(rawConfig, ocispec.Manifest{Layers: make([]ocispec.Descriptor, len(e.Layers))})
	if err != nil {
		return none, err
	}
	if err := checkPlatform("the image", c.Platform, opt.Platform); err != nil {
		return none, err
	}
	config, err := t.putBytes(ctx, rawConfig, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Size: int64(len(rawConfig))})
	if err != nil {
		return none, err
	}
	var layers []ocispec.Descriptor
	for i, name := range e.Layers {
		l, err := t.dockerLayer(ctx, fl, name, c.RootFS.DiffIDs[i], opt.Rootfs.Progress)
		if err != nil {
			return none, err
		}
		layers = append(layers, l)
	}
	return t.putManifest(ctx, config, layers)
}

// dockerLayer stores a layer of a docker archive. An uncompressed layer has its
// diff ID as digest; a compressed one is checked when it is unpacked.
func (t *txn) dockerLayer(ctx context.Context, fl files, name string, diffID digest.Digest, p Progress) (ocispec.Descriptor, error) {
	r, size, err := fl.open(name)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: layer: %w", ErrBadImage, err)
	}
	defer r.Close()
	counted, end := p.start(PhaseImport, diffID.Encoded()[:12], size, r)
	defer end()
	br := bufio.NewReader(counted)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return ocispec.Descriptor{}, err
	}
	want := ocispec.Descriptor{Size: size}
	switch sniff(head) {
	case gzipped:
		want.MediaType = ocispec.MediaTypeImageLayerGzip
	case zstded:
		want.MediaType = ocispec.MediaTypeImageLayerZstd
	case plain:
		want.MediaType, want.Digest = ocispec.MediaTypeImageLayer, diffID
	default:
		return want, fmt.Errorf("%w: layer %.200q is compressed with %s", ErrUnsupported, name, sniff(head))
	}
	d, err := t.put(ctx, br, want)
	if err != nil {
		return d, fmt.Errorf("layer %.200q: %w", name, err)
	}
	return d, nil
}

func chooseDocker(all []dockerEntry, ref string) (dockerEntry, error) {
	var tags []string
	for _, e := range all {
		tags = append(tags, e.RepoTags...)
		if ref != "" && slices.ContainsFunc(e.RepoTags, func(t string) bool {
			return namedBy(ocispec.Descriptor{Annotations: map[string]string{ocispec.AnnotationRefName: t}}, ref)
		}) {
			return e, nil
		}
	}
	switch {
	case len(all) == 0:
		return dockerEntry{}, fmt.Errorf("%w: the archive holds no image", ErrNotFound)
	case ref != "":
		return dockerEntry{}, fmt.Errorf("%w: %s is not in the archive, which holds %s", ErrNotFound, ref, list(tags))
	case len(all) > 1:
		return dockerEntry{}, fmt.Errorf("%w: the archive holds %s: say which", ErrAmbiguous, list(tags))
	}
	return all[0], nil
}
