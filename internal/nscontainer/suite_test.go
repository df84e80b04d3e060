package nscontainer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/nscontainer/prepare"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/internal/workload/workloadtest"
)

// workDir is what TestMain removes.
var workDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if workDir != "" {
		_ = os.RemoveAll(workDir)
	}
	os.Exit(code)
}

// tempDir is a directory for all tests of the run.
var tempDir = sync.OnceValues(func() (string, error) {
	var err error
	workDir, err = os.MkdirTemp("", "nscontainer")
	return workDir, err
})

// owner is the owner program: that in HVCTL_BIN (the test host, where compiling
// would take more than a minute), or one that is built here. The test program
// itself would not do: inside a container there is no dynamic linker for it.
var owner = sync.OnceValues(func() (string, error) {
	if d := os.Getenv("HVCTL_BIN"); d != "" {
		return filepath.Join(d, "hvctl-ctr"), nil
	}
	dir, err := tempDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "hvctl-ctr")
	cmd := exec.Command("go", "build", "-o", bin, "github.com/hvctl/hvctl/cmd/hvctl-ctr")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build hvctl-ctr: %w\n%s", err, out)
	}
	return bin, nil
})

// busybox is the root file system image of a busybox with the usual names.
var busybox = sync.OnceValues(func() (images.Rootfs, error) {
	var none images.Rootfs
	dir, err := tempDir()
	if err != nil {
		return none, err
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return none, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return none, err
	}
	root := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "usr", "etc", "tmp", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return none, err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755); err != nil {
		return none, err
	}
	for a := range strings.FieldsSeq("sh cat echo sleep stty id ls mount touch dd head tail seq true ps kill mkdir hostname ip nc env grep wc") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", a)); err != nil {
			return none, err
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n",
		"etc/group":  "root:x:0:\napp:x:1001:\nextra:x:2000:app\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return none, err
		}
	}
	s, err := images.Open(storeDir(dir))
	if err != nil {
		return none, err
	}
	im, err := s.Import(context.Background(), root, "busybox", images.ImportOptions{})
	if err != nil {
		return none, err
	}
	return s.Rootfs(context.Background(), im, images.RootfsOptions{})
})

func storeDir(temp string) string { return filepath.Join(temp, "store") }

// config is a container without a network.
func config(t *testing.T) *workload.Config {
	t.Helper()
	fs, err := busybox()
	if err != nil {
		t.Fatal(err)
	}
	return &workload.Config{
		Image:  workload.Image{Ref: "busybox"},
		Rootfs: workload.Rootfs{ImagePath: fs.Path, FSType: fs.Format},
		Net:    workload.Network{Mode: workload.NetNone},
	}
}

func newBackend(t *testing.T) *prepare.Backend {
	t.Helper()
	bin, err := owner()
	if err != nil {
		t.Fatal(err)
	}
	return prepare.New(prepare.Options{Owner: bin})
}

// TestSuite: the life of an instance as every backend must live it.
func TestSuite(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Busybox)
	workloadtest.Suite(t, workloadtest.Target{Backend: newBackend(t), Config: config})
}

// TestUnpackedImage: the same image as a directory, for kernels without EROFS.
func TestUnpackedImage(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Busybox)
	fs, err := busybox()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	s, err := images.Open(storeDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := s.Tree(t.Context(), fs)
	if err != nil {
		t.Fatal(err)
	}
	workloadtest.Suite(t, workloadtest.Target{
		Backend: newBackend(t),
		Config: func(t *testing.T) *workload.Config {
			c := config(t)
			c.Rootfs.Dir = tree
			return c
		},
		Only: []string{"exit code and streams", "exec beside the first process", "owner killed"},
	})
	// What the containers wrote is not in it.
	if es, err := os.ReadDir(filepath.Join(tree, "tmp")); err != nil || len(es) != 0 {
		t.Errorf("left in the image: %v (%v)", es, err)
	}
}
