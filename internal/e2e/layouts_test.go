package e2e

import (
	_ "embed"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

//go:embed testdata/layouts.sh
var makeLayouts string

// TestImagesOfOtherTools: what umoci, skopeo and buildah write, as a layout, an
// archive of one, docker's archive and with layers packed by zstd, runs alike.
func TestImagesOfOtherTools(t *testing.T) {
	testenv.Require(t, testenv.ImageTools, testenv.Busybox)
	h := newHost(t)
	made := t.TempDir()
	const say = "id -u; pwd; echo $A; cat /etc/made same; ls /etc; stat -c %a:%u:%g own"
	const want = "7\n/srv\nb\nmade\nmade\nhostname\nhosts\nmade\n4750:7:8\n"
	make := exec.CommandContext(t.Context(), "sh", "-c", makeLayouts, "sh", say)
	make.Dir = made
	if out, err := make.CombinedOutput(); err != nil {
		t.Fatalf("making images: %v\n%s", err, out)
	}
	in := func(args ...string) []string {
		return append([]string{"--store", filepath.Join(made, "store")}, args...)
	}
	h.ok(in("kernel", "import", "--name", fast, filepath.Join(testenv.TestKernels(), fast, "vmlinuz"))...)
	for file, kinds := range map[string][]kind{"umoci": {ctr}, "skopeo.tar": {ctr}, "docker.tar": {ctr}, "zstd": bothKinds, "buildah": bothKinds} {
		h.ok(in("import", filepath.Join(made, file), "made-by-"+file)...)
		for _, k := range kinds {
			side := &host{t: t, root: h.root, bin: h.bin, kind: k}
			if out := h.ok(in(side.run("--rm", "--network", "none", "made-by-"+file)...)...); out != want {
				t.Errorf("%s in a %s says\n%s\nwant\n%s", file, k.name, out, want)
			}
		}
	}
}
