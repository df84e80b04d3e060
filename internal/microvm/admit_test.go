package microvm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
)

func TestWhatIsInAnOverlayIsNotCarriedAlong(t *testing.T) {
	if err := overlaid([]workload.Disk{{Path: "a"}, {Path: "b", Format: "qcow2", ReadOnly: true}}); err != nil {
		t.Error(err)
	}
	err := overlaid([]workload.Disk{{Path: "a"}, {Path: "b", Format: "qcow2", Overlay: "o"}})
	if !errors.Is(err, workload.ErrUnsupported) || !strings.Contains(err.Error(), "disk b is in o") {
		t.Errorf("%v", err)
	}
}

func TestAnOfferChoosesNoFilesOfThisHost(t *testing.T) {
	images, elsewhere := t.TempDir(), t.TempDir()
	for _, dir := range []string{images, elsewhere} {
		if err := os.WriteFile(filepath.Join(dir, "x.erofs"), []byte("image"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(elsewhere, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	mark, err := workload.MarkFile(filepath.Join(images, "x.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := workload.MarkFile(filepath.Join(elsewhere, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*workload.Config)
		mark   workload.FileMark
		says   string // empty: admitted
	}{
		{"an image of ours", func(*workload.Config) {}, mark, ""},
		{"an image under another path", func(c *workload.Config) { c.Rootfs.ImagePath = "/elsewhere/derived/x.erofs" }, mark, ""},
		{"another content", func(*workload.Config) {}, secret, "not the one"},
		{"a file that is no image", func(c *workload.Config) { c.Rootfs.ImagePath = filepath.Join(elsewhere, "secret") }, secret, "not here"},
		{"no name", func(c *workload.Config) { c.Rootfs.ImagePath = "/a/.." }, mark, "no file's name"},
		{"a disk of its host", func(c *workload.Config) { c.VM.Disks = []workload.Disk{{Path: "/etc/shadow", ReadOnly: true}} }, mark, "disk 0"},
		{"an overlay of its host", func(c *workload.Config) {
			c.VM.Disks = []workload.Disk{{Path: "x", Format: "qcow2", Overlay: "/etc/shadow"}}
		}, mark, "disk 0"},
		{"a directory", func(c *workload.Config) {
			c.Spec.Mounts = []specs.Mount{{Destination: "/data", Type: "bind", Source: "/root"}}
		}, mark, "/data is /root"},
		{"a directory where the agent mounts something itself", func(c *workload.Config) {
			c.Spec.Mounts = []specs.Mount{{Destination: "/dev/shm", Type: "bind", Source: "/root"}}
		}, mark, "/dev/shm is /root"},
		{"a tmpfs", func(c *workload.Config) {
			c.Spec.Mounts = []specs.Mount{{Destination: "/data", Type: "tmpfs", Source: "tmpfs"}}
		}, mark, ""},
		{"programs as its network", func(c *workload.Config) {
			c.Net.Mode, c.Net.CNI = workload.NetCNI, &workload.CNI{Network: "x", ConfDir: "/tmp", Plugins: []string{"/tmp"}}
		}, mark, "CNI"},
		{"a network in user mode", func(c *workload.Config) { c.Net.Mode, c.Net.ReachHost = workload.NetUser, true }, mark, ""},
		{"a container", func(c *workload.Config) { c.Backend = "container" }, mark, "a VM is waited for"},
		{"somebody's own kernel", func(c *workload.Config) { c.VM.Raw = true }, mark, "agent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &workload.Config{Backend: "vm", Spec: &specs.Spec{Process: &specs.Process{}}, Rootfs: workload.Rootfs{ImagePath: "/var/lib/hvctl/derived/x.erofs"}}
			tc.change(c)
			err := admit(c, &workload.Receive{Images: images}, plan.Plan{}, tc.mark)
			if err == nil && c.Net.ReachHost {
				t.Error("the guest may call what listens on our loopback")
			}
			if tc.says == "" && (err != nil || c.Rootfs.ImagePath != filepath.Join(images, "x.erofs")) || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("%v, root file system %s; want %q", err, c.Rootfs.ImagePath, tc.says)
			}
		})
	}
}
