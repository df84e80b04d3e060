package restart

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// cameVM is came for a VM, with what only its host has, and a capability and a setting of its own.
func cameVM(t *testing.T) (workload.Description, string) {
	t.Helper()
	d, images := came(t)
	c := d.Config
	c.Backend = "vm"
	c.Spec.Process.Capabilities.Effective = []string{"CAP_SYS_ADMIN"}
	c.Spec.Linux = &specs.Linux{Sysctl: map[string]string{"kernel.x": "1"}}
	c.VM = workload.VM{
		Kernel: "/theirs/kernel", KernelRef: "minimal 6.12", Initrd: "/theirs/initrd", Cmdline: "base mine=1", Transport: "pci", Watchdog: workload.AtEndDump, MaxCPUs: 2, MaxMemoryBytes: 1 << 31,
		GDB: "unix:/etc/x", Restore: &workload.Restore{File: "/etc/shadow"}, Receive: &workload.Receive{Images: "/etc"},
		Vsock: &workload.Vsock{Path: "/etc/y"}, Pmem: []workload.Pmem{{Path: "/etc/z"}},
		Disks: []workload.Disk{{Path: "/theirs/disk", Serial: "data", DiskLimits: workload.DiskLimits{IOPS: 5}}},
	}
	d.Disks = []workload.SnapshotDisk{{Name: "disk0"}}
	return d, images
}

func TestAVMIsAdmittedWithoutItsHost(t *testing.T) {
	d, images := cameVM(t)
	for _, c := range []*workload.Config{d.Config, offered(d.Config)} {
		d.Config = c
		got, err := admit(own(), d, plan.Plan{}, images)
		if err != nil {
			t.Fatal(err)
		}
		want := workload.VM{KernelRef: "minimal", Transport: "pci", Watchdog: workload.AtEndDump, MaxCPUs: 2, MaxMemoryBytes: 1 << 31, Disks: []workload.Disk{{Serial: "data", DiskLimits: workload.DiskLimits{IOPS: 5}}}}
		if a, b := text(t, got.VM), text(t, want); a != b {
			t.Errorf("%s, want %s", a, b)
		}
		if got.Backend != "vm" || got.Spec.Linux.Sysctl["kernel.x"] != "1" || got.Spec.Process.Capabilities.Effective[0] != "CAP_SYS_ADMIN" {
			t.Errorf("what is the guest's own affair: %+v %+v", got, got.Spec)
		}
	}
	if got := offered(d.Config).VM; got.Kernel+got.Initrd+got.GDB+got.Disks[0].Path != "" || got.Cmdline != "base mine=1" {
		t.Errorf("offered: %+v", got)
	}
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWhatOfAVMIsOfItsHostIsRefused(t *testing.T) {
	for says, change := range map[string]func(c *workload.Config){
		"/v is /etc": func(c *workload.Config) {
			c.Spec.Mounts = []specs.Mount{{Destination: "/v", Type: "bind", Source: "/etc"}}
		},
		"disk 0 is a file": func(c *workload.Config) { c.VM.Disks[0].ReadOnly = true },
		"a file of":        func(c *workload.Config) { c.VM.Disks[0].Overlay = "/etc/passwd" },
		"source's host":    func(c *workload.Config) { c.VM.Disks[0].Format = "qcow2" },
		"/dev/sda": func(c *workload.Config) {
			c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/sda"}}
		},
		"processor time": func(c *workload.Config) { c.Res.Deadline = &workload.Deadline{} },
		"does not make":  func(c *workload.Config) { c.Spec.Hooks = &specs.Hooks{} },
		`"reset"`:        func(c *workload.Config) { c.VM.OnPanic = "reset" },
		`network "tap"`:  func(c *workload.Config) { c.Net.Mode = workload.NetTap },
	} {
		d, images := cameVM(t)
		change(d.Config)
		if c, err := admit(own(), d, plan.Plan{}, images); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v", says, c, err)
		}
	}
	for _, ref := range []string{"/etc/passwd", "../x", "a/b", ".", "x\x00"} {
		if v, err := guest(workload.VM{KernelRef: ref}); err != nil || v.KernelRef != "" {
			t.Errorf("kernel %q: %q, %v", ref, v.KernelRef, err)
		}
	}
}

func TestVolumesAreThoseOfTheConfiguration(t *testing.T) {
	disks := make([]workload.Disk, 1)
	layer, disk := migrate.Volume{Name: "layer"}, migrate.Volume{Name: "disk0"}
	for _, tt := range []struct {
		v  []migrate.Volume
		ok bool
	}{
		{[]migrate.Volume{layer, disk}, true},
		{[]migrate.Volume{layer}, false},
		{[]migrate.Volume{disk, layer}, false},
		{[]migrate.Volume{layer, layer}, false},
		{[]migrate.Volume{layer, disk, {Name: "disk1"}}, false},
		{nil, false},
	} {
		if err := fits(migrate.Offer{Volumes: tt.v}, disks); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.v, err)
		}
	}
}

func TestAUsersPartOfTheCommandLine(t *testing.T) {
	for _, tt := range [][3]string{
		{"base quiet mine=1 two", "base quiet", " mine=1 two"},
		{"base quiet", "base quiet", ""},
		{"older words mine=1", "base quiet", ""},
		{"base quietly", "base quiet", ""},
	} {
		if got := added(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%q over %q: %q, want %q", tt[0], tt[1], got, tt[2])
		}
	}
}

// FuzzDescription has anything offered: what is admitted names no file of this host but the
// image by its name.
func FuzzDescription(f *testing.F) {
	images := f.TempDir()
	f.Add([]byte(`{"version":1,"config":{"backend":"vm","spec":{"ociVersion":"1.0.0","process":{"cwd":"/","args":["x"],"user":{"uid":0,"gid":0}}},"rootfs":{"imagePath":"i"},"vm":{"disks":[{"path":"/etc/passwd"}]}},"disks":[{"name":"d"}]}`))
	f.Add([]byte(`{"version":1,"config":{"backend":"container","spec":{"ociVersion":"1.0.0","process":{"cwd":"/","args":["x"],"user":{"uid":0,"gid":0},"capabilities":{}}},"rootfs":{"imagePath":"i"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := workload.ParseDescription(b)
		if err != nil {
			return
		}
		d.Rootfs = workload.FileMark{}
		c, err := admit(own(), d, plan.Plan{}, images)
		if err != nil {
			return
		}
		if filepath.Dir(c.Rootfs.ImagePath) != images || c.Rootfs.Dir+c.Rootfs.Layer+c.VM.Kernel+c.VM.Initrd+c.VM.GDB != "" || c.DataDir != own().DataDir || c.VM.Receive != nil || c.VM.Restore != nil || len(c.VM.Pmem) > 0 {
			t.Errorf("%+v", c)
		}
		for _, d := range c.VM.Disks {
			if d.Path != "" || d.Overlay != "" {
				t.Errorf("%+v", d)
			}
		}
	})
}
