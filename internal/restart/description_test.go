package restart

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// came is what a source offers: an ordinary container with a port, and the folder of images
// where its image is.
func came(t *testing.T) (d workload.Description, images string) {
	t.Helper()
	images = t.TempDir()
	path := filepath.Join(images, "i.erofs")
	if err := os.WriteFile(path, []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	mark, err := workload.MarkFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := workload.NewSpec(workload.SpecOptions{
		Args: []string{"/bin/x"}, Hostname: strings.Repeat("a", 12),
		Mounts: []specs.Mount{{Destination: "/t", Type: "tmpfs", Source: "tmpfs"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &workload.Config{
		ID: strings.Repeat("a", 64), Name: "theirs", Backend: "container", AutoRemove: true, DataDir: "/theirs", Spec: spec,
		Rootfs: workload.Rootfs{ImagePath: "/elsewhere/i.erofs", FSType: "erofs", Dir: "/etc", Layer: "/etc/shadow"},
		Net:    workload.Network{Mode: workload.NetUser, Publish: []workload.Port{{HostPort: 80, Port: 80, Protocol: "tcp"}, {HostPort: 81, Port: 81, Protocol: "tcp"}}},
		Res:    workload.Resources{MemoryBytes: 1 << 30, CgroupParent: "/theirs"},
	}
	return workload.Description{Config: c, Rootfs: mark}, images
}

func own() *workload.Config {
	return &workload.Config{ID: strings.Repeat("b", 64), Name: "ours", Backend: "container", DataDir: "/ours"}
}

func TestAnOrdinaryContainerIsAdmitted(t *testing.T) {
	d, images := came(t)
	p := plan.Plan{Rows: []plan.Row{{Resource: plan.Resource{Kind: plan.Port, Name: "tcp/81"}, Action: plan.Drop}}}
	c, err := admit(own(), d, p, images)
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != own().ID || c.Name != "ours" || c.DataDir != "/ours" || c.AutoRemove || c.Rootfs.ImagePath != filepath.Join(images, "i.erofs") ||
		c.Rootfs.Dir != "" || c.Rootfs.Layer != "" || c.Res.CgroupParent != "" {
		t.Errorf("of the source's host: %+v", c)
	}
	if c.Spec.Process.Args[0] != "/bin/x" || c.Spec.Hostname != strings.Repeat("b", 12) || c.Res.MemoryBytes != 1<<30 ||
		len(c.Net.Publish) != 1 || c.Net.Publish[0].Port != 80 || len(c.Spec.Mounts) != 1 {
		t.Errorf("what was to come: %+v %+v", c, c.Spec)
	}
}

// Whatever would give a sender more of this host than a container has is refused by name.
func TestWhatIsOfTheHostIsRefused(t *testing.T) {
	for says, change := range map[string]func(c *workload.Config){
		"containers and VMs": func(c *workload.Config) { c.Backend = "other" },
		"CAP_SYS_ADMIN":      func(c *workload.Config) { c.Spec.Process.Capabilities.Effective = []string{"CAP_SYS_ADMIN"} },
		"all capabilities":   func(c *workload.Config) { c.Spec.Process.Capabilities = nil },
		"/v is /etc": func(c *workload.Config) {
			c.Spec.Mounts = []specs.Mount{{Destination: "/v", Type: "bind", Source: "/etc"}}
		},
		`mount option "bind"`: func(c *workload.Config) { c.Spec.Mounts[0].Source, c.Spec.Mounts[0].Options = "/etc", []string{"bind"} },
		"sysctl kernel.x":     func(c *workload.Config) { c.Spec.Linux = &specs.Linux{Sysctl: map[string]string{"kernel.x": "1"}} },
		"system call filter":  func(c *workload.Config) { c.Spec.Linux = &specs.Linux{Seccomp: &specs.LinuxSeccomp{}} },
		"/dev/sda": func(c *workload.Config) {
			c.Spec.Linux = &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/sda"}}}
		},
		"the host's network":      func(c *workload.Config) { c.Net.Mode = workload.NetHost },
		"loopback":                func(c *workload.Config) { c.Net.ReachHost = true },
		`network "cni"`:           func(c *workload.Config) { c.Net.Mode = workload.NetCNI },
		"processor time":          func(c *workload.Config) { c.Res.Deadline = &workload.Deadline{} },
		"does not make":           func(c *workload.Config) { c.Spec.Hooks = &specs.Hooks{} },
		"hvctl run does not":      func(c *workload.Config) { c.Spec.Linux = &specs.Linux{CgroupsPath: "/"} },
		"run does not make":       func(c *workload.Config) { c.Spec.Process.ApparmorProfile = "unconfined" },
		"settings that hvctl run": func(c *workload.Config) { c.Spec.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{}} },
		"no file's name":          func(c *workload.Config) { c.Rootfs.ImagePath = "/x/.." },
		"no such file":            func(c *workload.Config) { c.Rootfs.ImagePath = "other" },
	} {
		d, images := came(t)
		change(d.Config)
		if c, err := admit(own(), d, plan.Plan{}, images); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v", says, c, err)
		}
	}
	d, images := came(t)
	d.Rootfs.Size++
	if _, err := admit(own(), d, plan.Plan{}, images); err == nil || !strings.Contains(err.Error(), "another one") {
		t.Errorf("another image of that name: %v", err)
	}
}
