package images

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzDecode feeds index, manifest and configuration decoders: what they accept
// must be safe to use as file names and within limits.
func FuzzDecode(f *testing.F) {
	const d = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"x","digest":"` + d + `","size":2},"layers":[{"digest":"` + d + `","size":1}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"` + d + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + d + `"]},"config":{"Env":["A=b"]}}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:../../x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(d ocispec.Descriptor) {
			if hex := d.Digest.Encoded(); len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" || d.Size < 0 {
				t.Errorf("accepted %q, %d", d.Digest, d.Size)
			}
		}
		if idx, err := decodeIndex(b); err == nil {
			for _, d := range idx.Manifests {
				check(d)
			}
			_, _ = choose(idx, "a", defaultPlatform())
			_, _ = choose(idx, "", defaultPlatform())
			_, _ = find(idx, "a")
			_, _ = find(idx, "0123456789ab")
		}
		m, err := decodeManifest(b)
		if err == nil {
			check(m.Config)
			for _, l := range m.Layers {
				check(l)
			}
			if len(m.Layers) > maxLayers || m.Config.Size > maxConfig {
				t.Errorf("%d layers, configuration of %d", len(m.Layers), m.Config.Size)
			}
		}
		if c, err := decodeConfig(b, m); err == nil && len(c.RootFS.DiffIDs) != len(m.Layers) {
			t.Errorf("%d diff IDs for %d layers", len(c.RootFS.DiffIDs), len(m.Layers))
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"debian", "localhost:5000/a/b:c", "a@sha256:" + strings.Repeat("0", 64), "../x", "[::1]:5000/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		full, err := NormalizeReference(s)
		if err != nil {
			return
		}
		again, err := NormalizeReference(full)
		if err != nil || again != full {
			t.Errorf("%q: %q, then %q, %v", s, full, again, err)
		}
	})
}
