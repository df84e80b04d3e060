package images_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"

	"github.com/hvctl/hvctl/images"
)

func open(t testing.TB) *images.Store {
	t.Helper()
	s, err := images.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tarOf makes a tar of files; names ending in a slash are directories.
func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var names []string
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		h := &tar.Header{Name: n, Mode: 0o755, Size: int64(len(files[n])), ModTime: time.Unix(1e9, 0), Typeflag: tar.TypeReg}
		if strings.HasSuffix(n, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[n])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func rootTar(t testing.TB, files map[string]string) string {
	t.Helper()
	return write(t, "root.tar", tarOf(t, files))
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func xzip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// blobs is a set of blobs and how to refer to them.
type blobs map[digest.Digest][]byte

func (b blobs) add(mediaType string, body []byte) ocispec.Descriptor {
	d := digest.FromBytes(body)
	b[d] = body
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

func (b blobs) json(t testing.TB, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b.add(mediaType, body)
}

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// image adds an image with gzip layers and returns its manifest.
func (b blobs) image(t testing.TB, p ocispec.Platform, layers ...[]byte) ocispec.Descriptor {
	t.Helper()
	c := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}, Config: ocispec.ImageConfig{Cmd: []string{"/bin/" + p.Architecture}}}
	var ls []ocispec.Descriptor
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
		ls = append(ls, b.add(ocispec.MediaTypeImageLayerGzip, gz(t, l)))
	}
	m := b.json(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: b.json(t, ocispec.MediaTypeImageConfig, c), Layers: ls,
	})
	m.Platform = &p
	return m
}

func (b blobs) index(t testing.TB, ms ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return b.json(t, ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: ms})
}

// layout returns the files of an OCI layout over the blobs.
func (b blobs) layout(t testing.TB, ms ...ocispec.Descriptor) map[string]string {
	t.Helper()
	idx := b.index(t, ms...)
	files := map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": string(b[idx.Digest])}
	for d, body := range b {
		files["blobs/sha256/"+d.Encoded()] = string(body)
	}
	return files
}

func named(d ocispec.Descriptor, ref string) ocispec.Descriptor {
	d.Annotations = map[string]string{ocispec.AnnotationRefName: ref}
	return d
}

func writeDir(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for n, body := range files {
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// rootFile reads a file out of an image's root file system image.
func rootFile(t testing.TB, s *images.Store, im *images.Image, name string) string {
	t.Helper()
	r, err := s.Rootfs(t.Context(), im, images.RootfsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fsys, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return string(b)
}

// contents lists all that a store holds, without its lock files.
func contents(t testing.TB, s *images.Store) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(s.Dir(), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !strings.HasSuffix(p, "lock") {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(s.Dir(), p)
			out = append(out, rel+" "+digest.FromBytes(b).String())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unchanged fails the test if f changes what the store holds.
func unchanged(t *testing.T, s *images.Store, f func()) {
	t.Helper()
	before := contents(t, s)
	f()
	if after := contents(t, s); !slices.Equal(before, after) {
		t.Errorf("the store has changed:\nbefore %q\nafter  %q", before, after)
	}
}
