package images_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/testenv"
)

func TestRootTarsOfEveryCompressionAreTheSameImage(t *testing.T) {
	raw := tarOf(t, map[string]string{"etc/": "", "etc/hostname": "x"})
	for name, b := range map[string][]byte{"plain": raw, "gzip": gz(t, raw), "zstd": zst(t, raw), "xz": xzip(t, raw)} {
		s := open(t)
		im, err := s.Import(t.Context(), write(t, name, b), "a", images.ImportOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if im.Config.RootFS.DiffIDs[0] != digest.FromBytes(raw) {
			t.Errorf("%s: diff ID %s", name, im.Config.RootFS.DiffIDs[0])
		}
		if got := rootFile(t, s, im, "etc/hostname"); got != "x" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestOCILayoutImports(t *testing.T) {
	b := blobs{}
	lower, upper := tarOf(t, map[string]string{"a": "1", "b": "1"}), tarOf(t, map[string]string{".wh.a": "", "c": "2"})
	m := b.image(t, amd64, lower, upper)
	files := b.layout(t, m)
	for name, src := range map[string]string{"directory": writeDir(t, files), "tar": write(t, "i.tar", tarOf(t, files)), "tar.gz": write(t, "i.tgz", gz(t, tarOf(t, files)))} {
		s := open(t)
		im, err := s.Import(t.Context(), src, "a", images.ImportOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if im.Digest != m.Digest || im.Config.Config.Cmd[0] != "/bin/amd64" {
			t.Errorf("%s: %+v", name, im)
		}
		if got := rootFile(t, s, im, "c"); got != "2" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestImageIsChosenByPlatformAndName(t *testing.T) {
	b := blobs{}
	arm := b.image(t, ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, tarOf(t, map[string]string{"a": "arm"}))
	x86 := b.image(t, amd64, tarOf(t, map[string]string{"a": "x86"}))
	other := b.image(t, amd64, tarOf(t, map[string]string{"a": "other"}))
	multi := b.index(t, arm, x86)
	s := open(t)
	get := func(src string, opt images.ImportOptions) (string, error) {
		im, err := s.Import(t.Context(), src, "x", opt)
		if err != nil {
			return "", err
		}
		return rootFile(t, s, im, "a"), nil
	}
	both := writeDir(t, b.layout(t, named(multi, "multi:1"), named(other, "docker.io/library/other:latest")))
	if got, err := get(both, images.ImportOptions{SourceRef: "multi:1"}); err != nil || got != "x86" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := get(both, images.ImportOptions{SourceRef: "other"}); err != nil || got != "other" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := get(both, images.ImportOptions{SourceRef: "multi:1", Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}}); err != nil || got != "arm" {
		t.Errorf("%q, %v", got, err)
	}
	unchanged(t, s, func() {
		if _, err := get(both, images.ImportOptions{}); !errors.Is(err, images.ErrAmbiguous) || !strings.Contains(err.Error(), "multi:1") {
			t.Errorf("two images: %v", err)
		}
		if _, err := get(both, images.ImportOptions{SourceRef: "nope"}); !errors.Is(err, images.ErrNotFound) {
			t.Errorf("no such image: %v", err)
		}
		if _, err := get(writeDir(t, b.layout(t, arm)), images.ImportOptions{}); !errors.Is(err, images.ErrArchMismatch) || !strings.Contains(err.Error(), "linux/arm64/v8") {
			t.Errorf("only arm64: %v", err)
		}
		plain := arm
		plain.Platform = nil // the index does not say, the configuration does
		if _, err := get(writeDir(t, b.layout(t, plain)), images.ImportOptions{}); !errors.Is(err, images.ErrArchMismatch) {
			t.Errorf("arm64 by configuration: %v", err)
		}
	})
}

// dockerArchive returns the files of what docker save wrote before version 25.
func dockerArchive(t testing.TB, tags ...string) map[string]string {
	t.Helper()
	files := map[string]string{}
	var all []map[string]any
	for i, tag := range tags {
		layer := tarOf(t, map[string]string{"a": tag})
		c, err := json.Marshal(ocispec.Image{Platform: amd64, Config: ocispec.ImageConfig{Cmd: []string{tag}}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}}})
		if err != nil {
			t.Fatal(err)
		}
		id := digest.FromBytes(c).Encoded()
		layerName := digest.FromString(tag).Encoded() + "/layer.tar"
		files[id+".json"] = string(c)
		files[layerName] = string(layer)
		if i == 1 {
			files[layerName] = string(gz(t, layer))
		}
		all = append(all, map[string]any{"Config": id + ".json", "RepoTags": []string{tag}, "Layers": []string{layerName}})
	}
	m, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	files["manifest.json"] = string(m)
	return files
}

func TestDockerArchiveImports(t *testing.T) {
	s := open(t)
	one := write(t, "one.tar", tarOf(t, dockerArchive(t, "app:1")))
	im, err := s.Import(t.Context(), one, "a", images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if im.Config.Config.Cmd[0] != "app:1" || rootFile(t, s, im, "a") != "app:1" {
		t.Errorf("%+v", im)
	}
	two := write(t, "two.tar.xz", xzip(t, tarOf(t, dockerArchive(t, "app:1", "app:2"))))
	if _, err := s.Import(t.Context(), two, "b", images.ImportOptions{}); !errors.Is(err, images.ErrAmbiguous) || !strings.Contains(err.Error(), "app:1, app:2") {
		t.Errorf("got %v", err)
	}
	im, err = s.Import(t.Context(), two, "b", images.ImportOptions{SourceRef: "app:2"})
	if err != nil || rootFile(t, s, im, "a") != "app:2" {
		t.Errorf("%+v, %v", im, err)
	}
}

func TestDirectoryImports(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	script := `
mkdir -p etc sub/deep dev; echo hello > etc/file; ln etc/file sub/link; ln -s /etc/file abs
mknod dev/null c 1 3; mkfifo sub/pipe; chmod 4755 etc/file; chown 12:34 etc/file; touch -d @1000000000.5 etc/file
truncate -s 3M sub/sparse; setfattr -n user.x -v y etc/file 2>/dev/null || true`
	c := exec.Command("sh", "-ec", script)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := open(t)
	im, err := s.Import(t.Context(), dir, "a", images.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := rootFile(t, s, im, "sub/link"); got != "hello\n" {
		t.Errorf("%q", got)
	}
	again, err := s.Import(t.Context(), dir, "b", images.ImportOptions{})
	if err != nil || again.Digest != im.Digest {
		t.Errorf("the same directory gives another image: %v", err)
	}
	r, err := s.Rootfs(t.Context(), im, images.RootfsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Size > 1<<20 {
		t.Errorf("%d bytes: the hole was stored", r.Size)
	}
	mnt := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", r.Path, mnt).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}()
	// rsync's view of the two trees: no line is no difference.
	out, err := exec.Command("sh", "-ec", `cd "$1"; find . ! -name . -printf '%p %M %U %G %T@ %l %y\n' | sort > "$3"; stat -c '%n %h %t:%T' etc/file sub/link dev/null >> "$3"
cd "$2"; find . ! -name . -printf '%p %M %U %G %T@ %l %y\n' | sort | diff "$3" - | grep '^[<>] \.' || true; stat -c '%n %h %t:%T' etc/file sub/link dev/null`, "sh", dir, mnt, filepath.Join(t.TempDir(), "list")).CombinedOutput()
	if want := "etc/file 2 0:0\nsub/link 2 0:0\ndev/null 1 1:3\n"; err != nil || string(out) != want {
		t.Errorf("differences: %v\n%s", err, out)
	}
}

func TestBadSourcesLeaveTheStoreAlone(t *testing.T) {
	raw := tarOf(t, map[string]string{"etc/x": strings.Repeat("y", 10_000)})
	b := blobs{}
	m := b.image(t, amd64, tarOf(t, map[string]string{"a": "1"}))
	layout := b.layout(t, m)
	with := func(change func(map[string]string)) string {
		files := map[string]string{}
		maps.Copy(files, layout)
		change(files)
		return writeDir(t, files)
	}
	flip := func(s string) string { return s[:len(s)-1] + string(s[len(s)-1]^1) }
	var layer string
	for d, body := range b {
		if strings.HasPrefix(string(body), "\x1f\x8b") {
			layer = "blobs/sha256/" + d.Encoded()
		}
	}
	docker := func(change func(map[string]string)) string {
		files := dockerArchive(t, "app:1")
		change(files)
		return write(t, "d.tar", tarOf(t, files))
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := exec.Command("mkfifo", fifo).Run(); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, src string
		want      error
		text      string
	}{
		{"missing", "/nonexistent", os.ErrNotExist, "no such file"},
		{"empty", write(t, "e", nil), images.ErrBadImage, "empty"},
		{"text", write(t, "t", []byte(strings.Repeat("hello", 200))), images.ErrBadImage, "not a tar archive"},
		{"fifo", fifo, images.ErrUnsupported, "neither a file nor a directory"},
		{"truncated tar", write(t, "t", raw[:5000]), images.ErrBadLayer, "truncated"},
		{"truncated gzip", write(t, "t", gz(t, raw)[:60]), images.ErrBadImage, "truncated"},
		{"truncated xz", write(t, "t", xzip(t, raw)[:150]), nil, "EOF"},
		{"damaged gzip", write(t, "t", []byte("\x1f\x8b\x08garbage garbage")), images.ErrBadImage, ""},
		{"path traversal", write(t, "t", tarOf(t, map[string]string{"../etc/passwd": "x"})), images.ErrUnsafePath, ".."},
		{"layer differs", with(func(f map[string]string) { f[layer] = flip(f[layer]) }), images.ErrDigestMismatch, "has the contents of"},
		{"layer short", with(func(f map[string]string) { f[layer] = f[layer][:20] }), images.ErrDigestMismatch, "announced with"},
		{"layer missing", with(func(f map[string]string) { delete(f, layer) }), images.ErrBadImage, "layer"},
		{"manifest differs", with(func(f map[string]string) { f["blobs/sha256/"+m.Digest.Encoded()] += " " }), images.ErrDigestMismatch, ""},
		{"index is no JSON", with(func(f map[string]string) { f["index.json"] = "{" }), images.ErrBadImage, "index"},
		{"index is empty", with(func(f map[string]string) { f["index.json"] = "{}" }), images.ErrNotFound, "holds no image"},
		{"digest that is a path", with(func(f map[string]string) {
			f["index.json"] = `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../../etc/passwd","size":1}]}`
		}), images.ErrBadImage, "digest"},
		{"docker layer differs", docker(func(f map[string]string) {
			for n := range f {
				if strings.HasSuffix(n, "layer.tar") {
					f[n] = string(tarOf(t, map[string]string{"a": "forged"}))
				}
			}
		}), images.ErrDigestMismatch, "layer"},
		{"docker manifest empty", docker(func(f map[string]string) { f["manifest.json"] = "[]" }), images.ErrNotFound, "no image"},
		{"docker config missing", docker(func(f map[string]string) { f["manifest.json"] = `[{"Config":"x","Layers":[]}]` }), images.ErrBadImage, "configuration"},
	}
	s := open(t)
	if _, err := s.Import(t.Context(), write(t, "ok", raw), "ok", images.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			unchanged(t, s, func() {
				_, err := s.Import(t.Context(), c.src, "bad", images.ImportOptions{})
				if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("got %v, want %v with %q", err, c.want, c.text)
				}
			})
		})
	}
	unchanged(t, s, func() {
		opt := images.ImportOptions{Rootfs: images.RootfsOptions{MaxBytes: 1000}}
		if _, err := s.Import(t.Context(), write(t, "big", tarOf(t, map[string]string{"a": strings.Repeat("z", 5000)})), "bad", opt); !errors.Is(err, images.ErrLimit) {
			t.Errorf("limit: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Import(ctx, write(t, "c", tarOf(t, map[string]string{"a": "cancelled"})), "bad", images.ImportOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancel: %v", err)
		}
	})
}

// TestFullDiskLeavesTheStoreAlone imports into a file system that is too small,
// with less and less room missing, so that every step is hit.
func TestFullDiskLeavesTheStoreAlone(t *testing.T) {
	testenv.Require(t, testenv.Root)
	mnt := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mnt).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}()
	s, err := images.Open(filepath.Join(mnt, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), rootTar(t, map[string]string{"a": "1"}), "small", images.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	big := write(t, "big.tar", tarOf(t, map[string]string{"a": string(bytes.Repeat([]byte("0123456789"), 30_000))}))
	ballast := filepath.Join(mnt, "ballast")
	failures := 0
	for size := 900 << 10; size >= 0; size -= 12 << 10 {
		if err := os.WriteFile(ballast, make([]byte, size), 0o644); err != nil {
			continue // not even the ballast fits
		}
		before := contents(t, s)
		_, err := s.Import(t.Context(), big, "big", images.ImportOptions{})
		if err == nil {
			break
		}
		failures++
		if !strings.Contains(err.Error(), "no space left") {
			t.Errorf("with %d bytes of ballast: %v", size, err)
		}
		if after := contents(t, s); strings.Join(after, "\n") != strings.Join(before, "\n") {
			t.Errorf("with %d bytes of ballast the store changed to %q", size, after)
		}
	}
	if failures < 10 {
		t.Errorf("only %d imports failed: the disk was too large", failures)
	}
	if im, err := s.Resolve(t.Context(), "big"); err != nil || len(rootFile(t, s, im, "a")) != 300_000 {
		t.Errorf("with room enough: %v", err)
	}
}

// TestHelperImport imports in a child process that the test below kills.
func TestHelperImport(t *testing.T) {
	if os.Getenv("IMAGES_HELPER") == "" {
		return
	}
	s, err := images.Open(os.Getenv("IMAGES_HELPER"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = s.Import(t.Context(), os.Getenv("IMAGES_SOURCE"), "big", images.ImportOptions{Rootfs: images.RootfsOptions{Progress: func(e images.Event) {
		if string(e.Phase) == os.Getenv("IMAGES_PHASE") && e.Done > 0 && !e.End {
			_, _ = os.Stdout.WriteString("reached\n")
			time.Sleep(time.Hour) // it is killed; an empty select can count as a deadlock
		}
	}}})
}

func TestKilledImportLeavesTheStoreAlone(t *testing.T) {
	s := open(t)
	if _, err := s.Import(t.Context(), rootTar(t, map[string]string{"a": "1"}), "small", images.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	big := write(t, "big.tar", tarOf(t, map[string]string{"a": string(bytes.Repeat([]byte("0123456789"), 100_000))}))
	for _, phase := range []images.Phase{images.PhaseImport, images.PhaseBuild} {
		before := contents(t, s)
		c := exec.Command(os.Args[0], "-test.run=^TestHelperImport$")
		c.Env = append(os.Environ(), "IMAGES_HELPER="+s.Dir(), "IMAGES_SOURCE="+big, "IMAGES_PHASE="+string(phase))
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 8)); err != nil {
			t.Errorf("%s was not reached: %v", phase, err)
		}
		_ = c.Process.Kill()
		_ = c.Wait()
		if l, err := s.List(t.Context()); err != nil || len(l) != 1 {
			t.Errorf("%s: %d images, %v", phase, len(l), err)
		}
		if _, err := s.Prune(t.Context()); err != nil {
			t.Error(err)
		}
		if after := contents(t, s); strings.Join(after, "\n") != strings.Join(before, "\n") {
			t.Errorf("%s: the store changed to %q", phase, after)
		}
	}
}

func TestProgressOfAnImport(t *testing.T) {
	s := open(t)
	ends := map[images.Phase]images.Event{}
	_, err := s.Import(t.Context(), rootTar(t, map[string]string{"a": strings.Repeat("x", 1<<20)}), "a", images.ImportOptions{Rootfs: images.RootfsOptions{Progress: func(e images.Event) {
		if e.End {
			ends[e.Phase] = e
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []images.Phase{images.PhaseImport, images.PhaseBuild} {
		if e := ends[p]; e.Done != e.Total || e.Total < 1<<20 || e.Name == "" {
			t.Errorf("%s: %+v", p, e)
		}
	}
}

// TestFailedImportLeavesNothingDerived: neither an image nor the lock of its
// building.
func TestFailedImportLeavesNothingDerived(t *testing.T) {
	s := open(t)
	src := write(t, "r.tar", tarOf(t, map[string]string{"a": "1", "b": "2"}))
	_, err := s.Import(t.Context(), src, "a", images.ImportOptions{Rootfs: images.RootfsOptions{MaxFiles: 1}})
	if err == nil {
		t.Fatal("more files than allowed were imported")
	}
	es, err := os.ReadDir(filepath.Join(s.Dir(), "derived"))
	if err != nil || len(es) != 0 {
		t.Errorf("left: %v (%v)", es, err)
	}
	if _, err := s.Import(t.Context(), src, "a", images.ImportOptions{}); err != nil {
		t.Errorf("the same again, with room: %v", err)
	}
}
