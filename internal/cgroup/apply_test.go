package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestUpdateOfQuotaOrPeriodKeepsTheOther has a tree of plain files: on v2 the two
// are one line.
func TestUpdateOfQuotaOrPeriodKeepsTheOther(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "g")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(top, "cgroup.subtree_control"), "cpu\n")
	s := &System{mode: V2, trees: []hierarchy{{dir: top, v2: true, controllers: []string{"cpu"}}}}
	g := &Group{sys: s, dirs: []string{dir}, made: []bool{false}}
	quota, period := new(int64(20000)), new(uint64(40000))
	for _, c := range []struct {
		before string
		change specs.LinuxCPU
		want   string
	}{
		{"10000 50000\n", specs.LinuxCPU{Quota: quota}, "20000 50000"},
		{"10000 50000\n", specs.LinuxCPU{Period: period}, "10000 40000"},
		{"max 100000\n", specs.LinuxCPU{Period: period}, "max 40000"},
		{"10000 50000\n", specs.LinuxCPU{Quota: new(int64(-1))}, "max 50000"},
		{"10000 50000\n", specs.LinuxCPU{Quota: quota, Period: period}, "20000 40000"},
	} {
		file := filepath.Join(dir, "cpu.max")
		put(file, c.before)
		r := &specs.LinuxResources{CPU: &c.change}
		files, err := g.Files(r)
		if err != nil || len(files) != 1 || files[0].Value != c.want {
			t.Errorf("after %q: systemd is told %v, %v; want %q", c.before, files, err, c.want)
		}
		put(file, c.before)
		if err := g.Set(r, nil); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if got := string(b[:min(len(b), len(c.want))]); err != nil || got != c.want { // the kernel's files have no rest
			t.Errorf("after %q: %q, %v; want %q", c.before, b, err, c.want)
		}
	}
}
