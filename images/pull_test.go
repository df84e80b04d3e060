package images_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hvctl/hvctl/images"
)

// hub is a registry in this process. Its before function may answer a request
// in the registry's place: then it returns true.
type hub struct {
	addr   string
	before func(w http.ResponseWriter, r *http.Request) bool
	gets   atomic.Int64 // of blobs
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{}
	reg := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			h.gets.Add(1)
		}
		if h.before == nil || !h.before(w, r) {
			reg.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	h.addr = strings.TrimPrefix(srv.URL, "http://")
	return h
}

// push puts blobs and manifests into the registry, without its client: nothing
// is checked on the way in.
func (h *hub) push(t *testing.T, repo string, b blobs, tags map[string]ocispec.Descriptor) {
	t.Helper()
	do := func(method, path, contentType string, body []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+h.addr+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			msg, _ := io.ReadAll(resp.Body)
			t.Fatalf("%s %s: %s %s", method, path, resp.Status, msg)
		}
	}
	for d, body := range b {
		do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", body)
	}
	// Manifests by digest first, as an index is checked for what it lists.
	for pass := range 2 {
		for d, body := range b {
			if mt := mediaType(body); mt != "" && (mt == ocispec.MediaTypeImageIndex) == (pass == 1) {
				do("PUT", "/v2/"+repo+"/manifests/"+d.String(), mt, body)
			}
		}
	}
	for tag, d := range tags {
		do("PUT", "/v2/"+repo+"/manifests/"+tag, d.MediaType, b[d.Digest])
	}
}

func mediaType(body []byte) string {
	for _, mt := range []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex} {
		if bytes.Contains(body, []byte(`"schemaVersion":2,"mediaType":"`+mt+`"`)) {
			return mt
		}
	}
	return ""
}

func TestPullMultiPlatformImage(t *testing.T) {
	h := newHub(t)
	b := blobs{}
	common := tarOf(t, map[string]string{"common": "1"})
	x86 := b.image(t, amd64, common, tarOf(t, map[string]string{"a": "x86"}))
	arm := b.image(t, ocispec.Platform{OS: "linux", Architecture: "arm64"}, common)
	s390 := b.image(t, ocispec.Platform{OS: "linux", Architecture: "s390x"}, common)
	h.push(t, "team/app", b, map[string]ocispec.Descriptor{"1": b.index(t, arm, x86), "arm": arm, "no": b.index(t, arm, s390)})

	s := open(t)
	ref := h.addr + "/team/app"
	var ended atomic.Int64
	im, err := s.Pull(t.Context(), ref+":1", images.PullOptions{Rootfs: images.RootfsOptions{Progress: func(e images.Event) {
		if e.Phase == images.PhaseDownload && e.End && e.Done == e.Total {
			ended.Add(1)
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if im.Digest != x86.Digest || im.Ref != ref+":1" || rootFile(t, s, im, "a") != "x86" || ended.Load() != 3 {
		t.Errorf("%+v, %d downloads", im, ended.Load())
	}
	// What is there is not fetched again.
	before := h.gets.Load()
	if _, err := s.Pull(t.Context(), ref+"@"+x86.Digest.String(), images.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := h.gets.Load() - before; n != 0 {
		t.Errorf("%d blobs fetched again", n)
	}
	unchanged(t, s, func() {
		for tag, text := range map[string]string{"arm": "linux/arm64", "no": "linux/arm64, linux/s390x"} {
			if _, err := s.Pull(t.Context(), ref+":"+tag, images.PullOptions{}); !errors.Is(err, images.ErrArchMismatch) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v", tag, err)
			}
		}
	})
	if _, err := s.Pull(t.Context(), ref+":arm", images.PullOptions{Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}}); err != nil {
		t.Error(err)
	}
	got, err := s.Resolve(t.Context(), ref+":arm")
	if err != nil {
		t.Fatal(err)
	}
	if err := got.CheckPlatform(); !errors.Is(err, images.ErrArchMismatch) {
		t.Errorf("running it here: %v", err)
	}
}

func TestPullWithCredentials(t *testing.T) {
	h := newHub(t)
	b := blobs{}
	m := b.image(t, amd64, tarOf(t, map[string]string{"a": "1"}))
	h.push(t, "app", b, map[string]ocispec.Descriptor{"latest": m})
	h.before = func(w http.ResponseWriter, r *http.Request) bool {
		user, pass, _ := r.BasicAuth()
		if user == "me" && pass == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return true
	}
	s := open(t)
	config := t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	unchanged(t, s, func() {
		if _, err := s.Pull(t.Context(), h.addr+"/app", images.PullOptions{}); !errors.Is(err, images.ErrAuth) || !strings.Contains(err.Error(), "docker login "+h.addr) {
			t.Errorf("without credentials: %v", err)
		}
	})
	if err := os.WriteFile(filepath.Join(config, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"username":"me","password":"secret"}}}`, h.addr), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), h.addr+"/app", images.PullOptions{}); err != nil {
		t.Errorf("docker's configuration: %v", err)
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	if _, err := open(t).Pull(t.Context(), h.addr+"/app", images.PullOptions{Keychain: keychain{}}); err != nil {
		t.Errorf("keychain: %v", err)
	}
}

type keychain struct{}

func (keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: "me", Password: "secret"}, nil
}

// TestHostileRegistry has a registry answer with what it should not.
func TestHostileRegistry(t *testing.T) {
	b := blobs{}
	layer := tarOf(t, map[string]string{"a": strings.Repeat("1", 100)})
	m := b.image(t, amd64, layer)
	layerPath := "/blobs/" + digest.FromBytes(gz(t, layer)).String()
	body := gz(t, layer)
	answer := func(path string, status int, b []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, path) {
				return false
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.WriteHeader(status)
			_, _ = w.Write(b)
			return true
		}
	}
	chunked := func(path string, b []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, path) {
				return false
			}
			w.(http.Flusher).Flush() // no Content-Length
			_, _ = w.Write(b)
			return true
		}
	}
	other := gz(t, tarOf(t, map[string]string{"a": "forged"}))
	cases := []struct {
		name   string
		ref    string
		before func(http.ResponseWriter, *http.Request) bool
		want   error
		text   string
	}{
		{"layer with other contents", ":1", answer(layerPath, 200, other), images.ErrDigestMismatch, ""},
		{"layer cut short", ":1", chunked(layerPath, body[:50]), images.ErrDigestMismatch, "announced with"},
		{"layer that does not end", ":1", func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, layerPath) {
				return false
			}
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					break
				}
			}
			return true
		}, images.ErrDigestMismatch, "longer than announced"},
		{"manifest with other contents", "@" + m.Digest.String(), answer("/manifests/"+m.Digest.String(), 200, []byte(`{"schemaVersion":2}`)), nil, "does not match"},
		{"manifest without end", ":1", func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					break
				}
			}
			return true
		}, nil, ""},
		{"manifest that is no JSON", ":1", answer("/manifests/1", 200, []byte("hello")), images.ErrBadImage, "manifest"},
		{"manifest with a path for a digest", ":1", answer("/manifests/1", 200, []byte(`{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1}}`)), images.ErrBadImage, "digest"},
		{"huge configuration", ":1", answer("/manifests/1", 200, []byte(`{"schemaVersion":2,"config":{"digest":"`+m.Digest.String()+`","size":99999999999}}`)), images.ErrBadImage, "configuration of"},
		{"schema 1", ":1", answer("/manifests/1", 200, []byte(`{"schemaVersion":1,"config":{}}`)), images.ErrUnsupported, "schema version 1"},
		{"not there", ":nope", nil, images.ErrNotFound, "nope"},
		{"forbidden", ":1", answer("/manifests/1", 403, nil), images.ErrAuth, "docker login"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHub(t)
			h.push(t, "app", b, map[string]ocispec.Descriptor{"1": m})
			h.before = c.before
			s := open(t)
			unchanged(t, s, func() {
				_, err := s.Pull(t.Context(), h.addr+"/app"+c.ref, images.PullOptions{})
				if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("got %v, want %v with %q", err, c.want, c.text)
				}
			})
		})
	}
}

// TestBrokenConnectionResumes breaks the connection in the middle of a layer.
func TestBrokenConnectionResumes(t *testing.T) {
	h := newHub(t)
	b := blobs{}
	small, large := tarOf(t, map[string]string{"s": "1"}), tarOf(t, map[string]string{"l": "2"})
	m := b.image(t, amd64, small, large)
	h.push(t, "app", b, map[string]ocispec.Descriptor{"1": m})
	largeBlob := gz(t, large)
	var breaks atomic.Int64
	breaks.Store(2)
	h.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, digest.FromBytes(largeBlob).String()) || breaks.Add(-1) < 0 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(largeBlob)))
		_, _ = w.Write(largeBlob[:40])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	s := open(t)
	im, err := s.Pull(t.Context(), h.addr+"/app:1", images.PullOptions{})
	if err != nil || rootFile(t, s, im, "l") != "2" {
		t.Fatalf("two breaks: %v", err)
	}

	// With no end of breaks the pull fails; what came whole stays, unlisted,
	// and the next pull fetches only the rest.
	s = open(t)
	breaks.Store(1000)
	if _, err := s.Pull(t.Context(), h.addr+"/app:1", images.PullOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("endless breaks: %v", err)
	}
	if l, err := s.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	breaks.Store(0)
	before := h.gets.Load()
	if _, err := s.Pull(t.Context(), h.addr+"/app:1", images.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := h.gets.Load() - before; n != 1 {
		t.Errorf("%d blobs fetched after the break, want only the broken one", n)
	}
}

func TestPullFromNowhere(t *testing.T) {
	s := open(t)
	srv := httptest.NewServer(http.NotFoundHandler())
	addr := strings.TrimPrefix(srv.URL, "http://")
	srv.Close()
	unchanged(t, s, func() {
		if _, err := s.Pull(t.Context(), addr+"/app", images.PullOptions{}); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("closed port: %v", err)
		}
		if _, err := s.Pull(t.Context(), "Bad Name", images.PullOptions{}); !errors.Is(err, images.ErrBadReference) {
			t.Errorf("got %v", err)
		}
	})
}
