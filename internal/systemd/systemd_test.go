package systemd

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/cgroup"
)

func TestPathsOfEngines(t *testing.T) {
	for _, tc := range []struct {
		name, path string
		user       bool
		want       Scope
	}{
		{"podman's", "machine.slice:libpod:0123abcd", false, Scope{"machine.slice", "libpod-0123abcd.scope"}},
		{"a pod's of Kubernetes", "kubepods-besteffort-podab_c.slice:cri-containerd:0123", false, Scope{"kubepods-besteffort-podab_c.slice", "cri-containerd-0123.scope"}},
		{"the root slice", "-.slice:a:b", false, Scope{"-.slice", "a-b.scope"}},
		{"no slice", ":a:b", false, Scope{"system.slice", "a-b.scope"}},
		{"no slice, a user's", ":a:b", true, Scope{"user.slice", "a-b.scope"}},
		{"no prefix", "x.slice::b", false, Scope{"x.slice", "b.scope"}},
		{"a scope by name", "x.slice::b.scope", false, Scope{"x.slice", "b.scope"}},
		{"what units' names may not have", "x.slice:a+:b/c\\d", false, Scope{"x.slice", `a\x2b-b\x2fc\x5cd.scope`}},
		{"ours", DefaultPath("web"), false, Scope{"system.slice", "hvctl-oci-web.scope"}},
	} {
		if got, err := ParsePath(tc.path, tc.user); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
}

func TestPathsThatNameNoScopeAreRefused(t *testing.T) {
	for _, tc := range []struct{ path, why string }{
		{"", "SLICE:PREFIX:NAME"},
		{"/a/b", "SLICE:PREFIX:NAME"},
		{"a.slice:b", "SLICE:PREFIX:NAME"},
		{"a.slice:b:c:d", "SLICE:PREFIX:NAME"},
		{"a.slice:b:", "name is missing"},
		{"a.slice:b:c.slice", "not a slice"},
		{"a:b:c", "NAME.slice"},
		{".slice:b:c", "NAME.slice"},
		{"a--b.slice:b:c", "empty part"},
		{"-a.slice:b:c", "empty part"},
		{"a-.slice:b:c", "empty part"},
		{"--.slice:b:c", "empty part"},
		{"../a.slice:b:c", "which no unit"},
		{"a b.slice:b:c", "which no unit"},
		{"a.slice:b:" + strings.Repeat("c", 260), "more than 255"},
		{strings.Repeat("a", 260) + ".slice:b:c", "longer"},
	} {
		if got, err := ParsePath(tc.path, false); !errors.Is(err, ErrPath) || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%q: %+v, %v", tc.path, got, err)
		}
	}
}

// files are names and values in turn.
func files(pairs ...string) (out []cgroup.File) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, cgroup.File{Name: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func TestLimitsBecomeProperties(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files []cgroup.File
		want  []Property
	}{
		{
			"memory", files("memory.swap.max", "0", "memory.max", "1048576", "memory.low", "max"),
			[]Property{{"MemorySwapMax", uint64(0), 0}, {"MemoryMax", uint64(1048576), 0}, {"MemoryLow", uint64(Infinity), 0}},
		},
		{"a quota", files("cpu.max", "50000 100000"), []Property{{"CPUQuotaPerSecUSec", uint64(500000), 0}, {"CPUQuotaPeriodUSec", uint64(100000), 0}}},
		{"a quota that is no whole percent is rounded up", files("cpu.max", "12345 100000"), []Property{{"CPUQuotaPerSecUSec", uint64(130000), 0}, {"CPUQuotaPeriodUSec", uint64(100000), 0}}},
		{"no quota", files("cpu.max", "max"), []Property{{"CPUQuotaPerSecUSec", uint64(Infinity), 0}, {"CPUQuotaPeriodUSec", uint64(100000), 0}}},
		{"a quota beyond all processors", files("cpu.max", "18446744073709551614 1"), nil},
		{"idle", files("cpu.idle", "1"), []Property{{"CPUWeight", uint64(0), 252}}},
		{"the last value counts", files("cpu.weight", "50", "pids.max", "7", "cpu.weight", "70"), []Property{{"TasksMax", uint64(7), 0}, {"CPUWeight", uint64(70), 0}}},
		{"processors", files("cpuset.cpus", "0-2,9", "cpuset.mems", "0"), []Property{{"AllowedCPUs", []byte{7, 2}, 0}, {"AllowedMemoryNodes", []byte{1}, 0}}},
		{"processors that nobody has", files("cpuset.cpus", "0-70000", "cpuset.mems", "3-1"), nil},
		{
			"devices", files("io.weight", "default 200", "io.weight", "8:0 300", "io.max", "8:0 rbps=10 wiops=max", "io.max", "8:16 rbps=20", "io.max", "8:0 rbps=30"),
			[]Property{
				{"IOWeight", uint64(200), 0},
				{"IODeviceWeight", []DeviceLimit{{"/dev/block/8:0", 300}}, 0},
				{"IOReadBandwidthMax", []DeviceLimit{{"/dev/block/8:16", 20}, {"/dev/block/8:0", 30}}, 0},
				{"IOWriteIOPSMax", []DeviceLimit{{"/dev/block/8:0", Infinity}}, 0},
			},
		},
		{"what systemd has no word for, and nonsense", files("hugetlb.2MB.max", "1", "memory.oom.group", "1", "memory.max", "many", "io.max", "8:0", "cpu.max", "1 0"), nil},
	} {
		if got := Limits(tc.files); len(got) != len(tc.want) || len(got) > 0 && !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", tc.name, got, tc.want)
		}
	}
}

// FuzzParsePath: whatever is accepted is a name that systemd takes, in one
// piece.
func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"a.slice:b:c", "-.slice::c+", ":a:b\\x2d", "a-b.slice:x:y.scope"} {
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, path string, user bool) {
		s, err := ParsePath(path, user)
		if err != nil {
			return
		}
		for _, name := range []string{s.Slice, s.Unit} {
			if len(name) > maxUnit || name == scopeSuffix {
				t.Errorf("%q: %q", path, name)
			}
			for i := range len(name) {
				if !unitByte(name[i]) {
					t.Errorf("%q: %q", path, name)
				}
			}
		}
		if !strings.HasSuffix(s.Slice, sliceSuffix) || !strings.HasSuffix(s.Unit, scopeSuffix) {
			t.Errorf("%q: %+v", path, s)
		}
	})
}
