package prepare

import (
	"context"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestPrepareRefuses: what a container cannot honour is said before anything is
// made, all of it at once.
func TestPrepareRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		uid    int
		change func(*workload.Config)
		want   []string
	}{
		{name: "nothing", change: func(*workload.Config) {}},
		{name: "a user's wishes", uid: 1000, change: func(c *workload.Config) {
			c.Net.Mode, c.Res.Deadline = workload.NetBridge, &workload.Deadline{}
		}, want: []string{"--network user", "--cpu-deadline needs root"}},
		{name: "too little memory and processor", change: func(c *workload.Config) { c.Res = workload.Resources{MemoryBytes: 512, CPUs: 0.001} }, want: []string{"write 512m", "0.01 of a processor"}},
		{name: "a disk", change: func(c *workload.Config) { c.VM.Disks = []workload.Disk{{Path: "/x"}} }, want: []string{"--disk", "use -v"}},
		{name: "a volume of nothing", change: func(c *workload.Config) {
			c.Spec.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Source: "/nonexistent", Options: []string{"rbind"}}}
		}, want: []string{"/nonexistent", "make it first"}},
		{name: "a parameter of the host's kernel", change: func(c *workload.Config) {
			c.Spec.Linux = &specs.Linux{Sysctl: map[string]string{"vm.swappiness": "1"}}
		}, want: []string{"linux.sysctl", "vm.swappiness"}},
		{name: "a network parameter on the host's network", change: func(c *workload.Config) {
			c.Net.Mode = workload.NetHost
			c.Spec.Linux = &specs.Linux{Sysctl: map[string]string{"net.ipv4.ip_forward": "0"}}
		}, want: []string{"linux.sysctl", "net.ipv4.ip_forward"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := workload.NewSpec(workload.SpecOptions{Args: []string{"sh"}, Hostname: "box"})
			if err != nil {
				t.Fatal(err)
			}
			cfg := &workload.Config{ID: "0123", Backend: "container", Spec: s}
			c.change(cfg)
			err = (&Backend{uid: c.uid, mounts: func(string) bool { return true }}).Prepare(t.Context(), cfg)
			if c.want == nil {
				if err != nil || cfg.Net.Mode != workload.NetBridge {
					t.Errorf("%v; network %q", err, cfg.Net.Mode)
				}
				return
			}
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("error %v, want %q in it", err, w)
				}
			}
		})
	}
}

// TestPlainUsersImageIsUnpacked: only root mounts file system images.
func TestPlainUsersImageIsUnpacked(t *testing.T) {
	s, err := workload.NewSpec(workload.SpecOptions{Args: []string{"sh"}, Hostname: "box"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := &workload.Config{ID: "0123", Backend: "container", Spec: s}
	b := &Backend{uid: 1000, mounts: func(string) bool { return true }}
	b.o.Tree = func(context.Context, *workload.Config) (string, error) { return "/tree", nil }
	if err := b.Prepare(t.Context(), cfg); err != nil || cfg.Rootfs.Dir != "/tree" || cfg.Net.Mode != workload.NetUser {
		t.Errorf("%v; root file system %q, network %q", err, cfg.Rootfs.Dir, cfg.Net.Mode)
	}
}

// TestPrepareUnpacksWhatCannotBeMounted: on a kernel without EROFS.
func TestPrepareUnpacksWhatCannotBeMounted(t *testing.T) {
	s, err := workload.NewSpec(workload.SpecOptions{Args: []string{"sh"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := &workload.Config{ID: "0123", Backend: "container", Spec: s, Rootfs: workload.Rootfs{ImagePath: "/i", FSType: "erofs"}}
	b := &Backend{mounts: func(string) bool { return false }}
	if err := b.Prepare(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "modprobe erofs") {
		t.Errorf("nothing to unpack with: %v", err)
	}
	b.o.Tree = func(_ context.Context, c *workload.Config) (string, error) { return "/tree" + c.Rootfs.ImagePath, nil }
	if err := b.Prepare(t.Context(), cfg); err != nil || cfg.Rootfs.Dir != "/tree/i" {
		t.Errorf("%+v, %v", cfg.Rootfs, err)
	}
}
