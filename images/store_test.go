package images_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/images"
)

func TestReferencesAreNormalized(t *testing.T) {
	for in, want := range map[string]string{
		"debian":                              "docker.io/library/debian:latest",
		"debian:bookworm":                     "docker.io/library/debian:bookworm",
		"user/app":                            "docker.io/user/app:latest",
		"docker.io/debian":                    "docker.io/library/debian:latest",
		"index.docker.io/library/a:b":         "docker.io/library/a:b",
		"localhost:5000/a":                    "localhost:5000/a:latest",
		"ghcr.io/x/y:1":                       "ghcr.io/x/y:1",
		"a@sha256:" + strings.Repeat("0", 64): "docker.io/library/a@sha256:" + strings.Repeat("0", 64),
	} {
		if got, err := images.NormalizeReference(in); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "A", "a:b:c", "../x", "a b", "a@sha256:00", strings.Repeat("a", 2000)} {
		if got, err := images.NormalizeReference(in); !errors.Is(err, images.ErrBadReference) {
			t.Errorf("%q: %s, %v", in, got, err)
		}
	}
	if got := images.FamiliarReference("docker.io/library/debian:bookworm"); got != "debian:bookworm" {
		t.Error(got)
	}
}

func TestImportedTarResolves(t *testing.T) {
	s := open(t)
	im, err := s.Import(t.Context(), rootTar(t, map[string]string{"bin/sh": "#!"}), "debian:bookworm", images.ImportOptions{
		Config: ocispec.ImageConfig{Cmd: []string{"bash"}, Env: []string{"A=b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"debian:bookworm", "docker.io/library/debian:bookworm", im.Digest.String(), im.Digest.Encoded()[:12], "debian@" + im.Digest.String()} {
		got, err := s.Resolve(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != im.Digest || got.Ref != "docker.io/library/debian:bookworm" || got.Config.Config.Cmd[0] != "bash" || got.Size == 0 {
			t.Errorf("%s: %+v", ref, got)
		}
		if err := got.CheckPlatform(); err != nil {
			t.Error(err)
		}
	}
	if got := rootFile(t, s, im, "bin/sh"); got != "#!" {
		t.Errorf("got %q", got)
	}
	for _, ref := range []string{"debian", "debian:bullseye", "000000000000"} {
		if _, err := s.Resolve(t.Context(), ref); !errors.Is(err, images.ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Resolve(t.Context(), "Not A Name"); !errors.Is(err, images.ErrBadReference) {
		t.Errorf("got %v", err)
	}
}

func TestListTagRemove(t *testing.T) {
	s := open(t)
	im, err := s.Import(t.Context(), rootTar(t, map[string]string{"a": "1"}), "a", images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), "a", "b:2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), "nope", "c"); !errors.Is(err, images.ErrNotFound) {
		t.Errorf("tag of nothing: %v", err)
	}
	if err := s.Tag(t.Context(), "a", "c@"+im.Digest.String()); !errors.Is(err, images.ErrBadReference) {
		t.Errorf("tag with a digest: %v", err)
	}
	l, err := s.List(t.Context())
	if err != nil || len(l) != 2 || l[0].Ref != "docker.io/library/a:latest" || l[1].Ref != "docker.io/library/b:2" || l[1].Digest != im.Digest {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := s.Remove(t.Context(), im.Digest.String(), false); !errors.Is(err, images.ErrAmbiguous) {
		t.Errorf("remove by digest with two names: %v", err)
	}
	if freed, err := s.Remove(t.Context(), "a", false); err != nil || freed.Blobs != 0 {
		t.Errorf("%+v, %v", freed, err)
	}
	if freed, err := s.Remove(t.Context(), "b:2", false); err != nil || freed.Blobs != 3 || freed.Derived != 1 || freed.Bytes == 0 {
		t.Errorf("%+v, %v", freed, err)
	}
	if _, err := s.Remove(t.Context(), "b:2", false); !errors.Is(err, images.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	for _, dir := range []string{"blobs/sha256", "derived", "tmp"} {
		if es, err := os.ReadDir(filepath.Join(s.Dir(), dir)); err != nil || len(es) != 0 {
			t.Errorf("%s has %v, %v", dir, es, err)
		}
	}
}

func TestRunningImageIsInUse(t *testing.T) {
	s := open(t)
	im, err := s.Import(t.Context(), rootTar(t, map[string]string{"a": "1"}), "a", images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Rootfs(t.Context(), im, images.RootfsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "a", false); !errors.Is(err, images.ErrInUse) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Remove(t.Context(), "a", true); err != nil {
		t.Errorf("force: %v", err)
	}
	if _, err := os.Stat(r.Path); err != nil {
		t.Errorf("the file in use is gone: %v", err)
	}
	f.Close()
	if freed, err := s.Prune(t.Context()); err != nil || freed.Derived != 1 {
		t.Errorf("%+v, %v", freed, err)
	}
	if _, err := r.Open(); !errors.Is(err, images.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestReplacedReferenceLosesItsImage(t *testing.T) {
	s := open(t)
	one, err := s.Import(t.Context(), rootTar(t, map[string]string{"a": "1"}), "a", images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.Import(t.Context(), rootTar(t, map[string]string{"a": "2"}), "a", images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Resolve(t.Context(), "a"); err != nil || got.Digest != two.Digest {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.Resolve(t.Context(), one.Digest.String()); !errors.Is(err, images.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if freed, err := s.Prune(t.Context()); err != nil || freed.Blobs != 3 || freed.Derived != 1 {
		t.Errorf("%+v, %v", freed, err)
	}
	if got := rootFile(t, s, two, "a"); got != "2" {
		t.Errorf("got %q", got)
	}
}

func TestRootfsIsBuiltOnceAndReproducible(t *testing.T) {
	s := open(t)
	im, err := s.Import(t.Context(), rootTar(t, map[string]string{"a": strings.Repeat("x", 100_000)}), "a", images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Rootfs(t.Context(), im, images.RootfsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.Path); err != nil {
		t.Fatal(err)
	}
	var builds sync.Map
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			// Each opens the store anew, as another process would.
			s, err := images.Open(s.Dir())
			if err != nil {
				t.Error(err)
				return
			}
			_, err = s.Rootfs(t.Context(), im, images.RootfsOptions{Progress: func(images.Event) { builds.Store(i, true) }})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	builds.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("built %d times", n)
	}
	again, err := os.ReadFile(r.Path)
	if err != nil || string(again) != string(first) {
		t.Errorf("the second build differs (%v)", err)
	}
}

func TestDamagedLayerIsNoticed(t *testing.T) {
	s := open(t)
	im, err := s.Import(t.Context(), rootTar(t, map[string]string{"a": "1"}), "a", images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Rootfs(t.Context(), im, images.RootfsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.Path); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(s.Dir(), "blobs/sha256", im.Config.RootFS.DiffIDs[0].Encoded())
	b, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	b[512] ^= 1 // the file's contents
	if err := os.WriteFile(blob, b, 0o644); err != nil {
		t.Fatal(err)
	}
	unchanged(t, s, func() {
		if _, err := s.Rootfs(t.Context(), im, images.RootfsOptions{}); !errors.Is(err, images.ErrDigestMismatch) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPruneWaitsForWriters(t *testing.T) {
	s := open(t)
	lock, err := os.OpenFile(filepath.Join(s.Dir(), "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	// A killed process's leftover stays while somebody might be writing it.
	leftover := filepath.Join(s.Dir(), "tmp", "blob-123")
	if err := os.WriteFile(leftover, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := s.Prune(ctx); done <- err }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := images.Open(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(leftover); err != nil {
		t.Errorf("removed while the store was locked: %v", err)
	}
	lock.Close()
	if _, err := images.Open(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(leftover); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestManyImportsAtOnce(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	for i := range 8 {
		path := rootTar(t, map[string]string{"n": strings.Repeat("x", i)})
		wg.Go(func() {
			if _, err := s.Import(t.Context(), path, "a:"+string(rune('a'+i)), images.ImportOptions{}); err != nil {
				t.Error(err)
			}
			if _, err := s.Prune(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	l, err := s.List(t.Context())
	if err != nil || len(l) != 8 {
		t.Errorf("%d images, %v", len(l), err)
	}
	for _, im := range l {
		rootFile(t, s, im, "n")
	}
}
