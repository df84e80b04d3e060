package cgroup

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Three hosts.
var (
	onlyV2 = &System{mode: V2, trees: []hierarchy{{dir: "/c", v2: true, controllers: []string{"cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma"}}}}
	onlyV1 = &System{mode: V1, trees: []hierarchy{
		{dir: "/c/cpu", controllers: []string{"cpu", "cpuacct"}},
		{dir: "/c/cpuset", controllers: []string{"cpuset"}},
		{dir: "/c/memory", controllers: []string{"memory"}},
		{dir: "/c/blkio", controllers: []string{"blkio"}},
		{dir: "/c/pids", controllers: []string{"pids"}},
		{dir: "/c/hugetlb", controllers: []string{"hugetlb"}},
	}}
	mixed = &System{mode: Hybrid, trees: []hierarchy{
		{dir: "/c/unified", v2: true, controllers: []string{"hugetlb", "memory"}},
		{dir: "/c/cpu", controllers: []string{"cpu"}},
		{dir: "/c/pids", controllers: []string{"pids"}},
	}}
)

// files are a plan's settings as "file=value".
func files(p *plan) []string {
	var out []string
	for _, s := range p.settings {
		out = append(out, s.file+"="+s.value)
	}
	return out
}

func TestPlans(t *testing.T) {
	dev := specs.LinuxBlockIODevice{Major: 8, Minor: 16}
	rate := func(n uint64) []specs.LinuxThrottleDevice {
		return []specs.LinuxThrottleDevice{{LinuxBlockIODevice: dev, Rate: n}}
	}
	for _, tc := range []struct {
		name       string
		r          specs.LinuxResources
		v1, v2, hy []string // nil: not asked here
	}{
		{"nothing", specs.LinuxResources{}, []string{}, []string{}, []string{}},
		{
			"processor",
			specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(50000)), Period: new(uint64(100000)), Cpus: "0-1", Mems: "0"}},
			[]string{"cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000", "cpuset.cpus=0-1", "cpuset.mems=0"},
			[]string{"cpu.weight=100", "cpu.max=50000 100000", "cpuset.cpus=0-1", "cpuset.mems=0"},
			nil,
		},
		{
			"no quota any more",
			specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(-1))}},
			[]string{"cpu.cfs_quota_us=-1"},
			[]string{"cpu.max=max 100000"},
			[]string{"cpu.cfs_quota_us=-1"},
		},
		{
			"burst",
			specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(50000)), Burst: new(uint64(20000))}},
			[]string{"cpu.cfs_quota_us=50000", "cpu.cfs_burst_us=20000"},
			[]string{"cpu.max=50000 100000", "cpu.max.burst=20000"},
			nil,
		},
		{
			"idle",
			specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(1024)), Idle: new(int64(1))}},
			[]string{"cpu.idle=1"},
			[]string{"cpu.idle=1"},
			nil,
		},
		{
			"memory",
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(100)), Swap: new(int64(150)), Reservation: new(int64(50))}},
			[]string{"memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150", "memory.soft_limit_in_bytes=50"},
			[]string{"memory.swap.max=50", "memory.max=100", "memory.low=50"},
			[]string{"memory.swap.max=50", "memory.max=100", "memory.low=50"},
		},
		{
			"no memory limit any more",
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1)), Swap: new(int64(-1))}},
			[]string{"memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"},
			[]string{"memory.swap.max=max", "memory.max=max"},
			nil,
		},
		{
			"pids",
			specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(7))}},
			[]string{"pids.max=7"},
			[]string{"pids.max=7"},
			[]string{"pids.max=7"},
		},
		{"no process at all", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(0))}}, []string{"pids.max=0"}, []string{"pids.max=0"}, nil},
		{"any number of them", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(-1))}}, []string{"pids.max=max"}, []string{"pids.max=max"}, nil},
		{
			"disks",
			specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
				Weight: new(uint16(500)), WeightDevice: []specs.LinuxWeightDevice{{LinuxBlockIODevice: dev, Weight: new(uint16(100))}},
				ThrottleReadBpsDevice: rate(1000), ThrottleWriteIOPSDevice: rate(5), ThrottleWriteBpsDevice: rate(0),
			}},
			[]string{
				"blkio.weight=500", "blkio.weight_device=8:16 100", "blkio.throttle.read_bps_device=8:16 1000",
				"blkio.throttle.write_bps_device=8:16 0", "blkio.throttle.write_iops_device=8:16 5",
			},
			[]string{"io.weight=default 4950", "io.weight=8:16 910", "io.max=8:16 rbps=1000", "io.max=8:16 wbps=max", "io.max=8:16 wiops=5"},
			nil,
		},
		{
			"huge pages",
			specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}},
			[]string{"hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.2MB.rsvd.limit_in_bytes=4194304"},
			[]string{"hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304"},
			[]string{"hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304"},
		},
		{
			"rdma",
			specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"b": {HcaHandles: new(uint32(1))}, "a": {HcaHandles: new(uint32(2)), HcaObjects: new(uint32(3))}, "c": {}}},
			[]string{"rdma.max=a hca_handle=2 hca_object=3", "rdma.max=b hca_handle=1"},
			[]string{"rdma.max=a hca_handle=2 hca_object=3", "rdma.max=b hca_handle=1"},
			nil,
		},
		{
			"as it is",
			specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(2))}, Unified: map[string]string{"memory.high": "5", "cpu.weight": "77", "io.max": "8:0 rbps=1\n8:16 rbps=2\n"}},
			nil,
			[]string{"cpu.weight=1", "cpu.weight=77", "io.max=8:0 rbps=1", "io.max=8:16 rbps=2", "memory.high=5"},
			nil,
		},
		{
			"marks",
			specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: new(uint32(5)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 3}}}},
			[]string{"net_cls.classid=5", "net_prio.ifpriomap=eth0 3"},
			nil, nil,
		},
		{
			"realtime",
			specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: new(int64(1000)), RealtimePeriod: new(uint64(5000))}},
			[]string{"cpu.rt_period_us=5000", "cpu.rt_runtime_us=1000"},
			nil, nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, h := range []struct {
				s    *System
				want []string
			}{{onlyV1, tc.v1}, {onlyV2, tc.v2}, {mixed, tc.hy}} {
				if h.want == nil {
					continue
				}
				p, err := planFor(h.s, &tc.r, nil)
				if err != nil {
					t.Errorf("%s: %v", h.s.mode, err)
					continue
				}
				if got := files(p); !slices.Equal(got, h.want) {
					t.Errorf("%s: %q, want %q", h.s.mode, got, h.want)
				}
			}
		})
	}
}

func TestPlansRefuseByField(t *testing.T) {
	yes := true
	no := false
	for _, tc := range []struct {
		name  string
		host  *System
		r     specs.LinuxResources
		is    error
		field string
	}{
		{"realtime on v2", onlyV2, specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: new(int64(1))}}, ErrUnsupported, "cpu.realtimeRuntime"},
		{"realtime period on v2", onlyV2, specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimePeriod: new(uint64(1))}}, ErrUnsupported, "cpu.realtimePeriod"},
		{"swappiness on v2", onlyV2, specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: new(uint64(1))}}, ErrUnsupported, "memory.swappiness"},
		{"no OOM killer on v2", onlyV2, specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: &yes}}, ErrUnsupported, "memory.disableOOMKiller"},
		{"flat on v2", onlyV2, specs.LinuxResources{Memory: &specs.LinuxMemory{UseHierarchy: &no}}, ErrUnsupported, "memory.useHierarchy"},
		{"TCP memory on v2", onlyV2, specs.LinuxResources{Memory: &specs.LinuxMemory{KernelTCP: new(int64(1))}}, ErrUnsupported, "memory.kernelTCP"},
		{"marks on v2", onlyV2, specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: new(uint32(1))}}, ErrUnsupported, "network"},
		{"leaf weight on v2", onlyV2, specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: new(uint16(10))}}, ErrUnsupported, "blockIO.leafWeight"},
		{"unified on v1", onlyV1, specs.LinuxResources{Unified: map[string]string{"cpu.weight": "1"}}, ErrUnsupported, "unified"},
		{"unified of a v1 controller", mixed, specs.LinuxResources{Unified: map[string]string{"cpu.weight": "1"}}, ErrUnsupported, `unified["cpu.weight"]`},
		{"swap alone on v2", onlyV2, specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: new(int64(5))}}, ErrValue, "memory.swap"},
		{"swap below memory on v1", onlyV1, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(10)), Swap: new(int64(5))}}, ErrValue, "memory.swap"},
		{"negative memory", onlyV1, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-2))}}, ErrValue, "memory.limit"},
		{"shares", onlyV2, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(262145))}}, ErrValue, "cpu.shares"},
		{"quota", onlyV2, specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(1))}}, ErrValue, "cpu.quota"},
		{"period", onlyV2, specs.LinuxResources{CPU: &specs.LinuxCPU{Period: new(uint64(10))}}, ErrValue, "cpu.period"},
		{"processors", onlyV2, specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0\n1"}}, ErrValue, "cpu.cpus"},
		{"pids", onlyV2, specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(-2))}}, ErrValue, "pids.limit"},
		{"weight", onlyV1, specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: new(uint16(5))}}, ErrValue, "blockIO.weight"},
		{"page size", onlyV2, specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../x"}}}, ErrValue, "hugepageLimits"},
		{"page size without number", onlyV2, specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "MB"}}}, ErrValue, "hugepageLimits"},
		{"rdma device", onlyV2, specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"a b": {}}}, ErrValue, "rdma"},
		{"unified path", onlyV2, specs.LinuxResources{Unified: map[string]string{"../x.y": "1"}}, ErrValue, "unified"},
		{"unified core", onlyV2, specs.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}}, ErrValue, "unified"},
		{"unified without controller", onlyV2, specs.LinuxResources{Unified: map[string]string{"x": "1"}}, ErrValue, "unified"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := planFor(tc.host, &tc.r, nil)
			if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), "linux.resources."+tc.field) {
				t.Errorf("error %v, want %v of %s", err, tc.is, tc.field)
			}
		})
	}
}

func TestObsoleteFieldsAreNoted(t *testing.T) {
	for _, s := range []*System{onlyV1, onlyV2} {
		p, err := planFor(s, &specs.LinuxResources{Memory: &specs.LinuxMemory{Kernel: new(int64(5))}}, nil) //nolint:staticcheck // deprecated, and so ignored
		if err != nil || len(p.notes) != 1 || !strings.Contains(p.notes[0], "memory.kernel") || len(p.settings) != 0 {
			t.Errorf("%s: notes %q, %v", s.mode, p.notes, err)
		}
	}
}

func TestPaths(t *testing.T) {
	for _, tc := range []struct{ in, want, says string }{
		{"/a/b", "/a/b", ""},
		{"/a//b/", "/a/b", ""},
		{"a", "a", ""},
		{"/a:b", "/a:b", ""},
		{"/...", "/...", ""},
		{"", "", "empty"},
		{"/", "", "root"},
		{"//", "", "root"},
		{"..", "", `".."`},
		{"/a/../b", "", `".."`},
		{"/a/./b", "", `"."`},
		{"/a/..", "", `".."`},
		{"/a\x00b", "", "NUL"},
		{"/a\nb", "", "newline"},
		{"/a/cgroup.procs", "", "cgroup."},
		{"system.slice:x:y", "", "systemd"},
		{"/" + strings.Repeat("x", 256), "", "255"},
		{strings.Repeat("/x", 3000), "", "longer"},
	} {
		got, err := CleanPath(tc.in)
		if got != tc.want || (err != nil) != (tc.says != "") || err != nil && (!errors.Is(err, ErrPath) || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%.20q: %q, %v", tc.in, got, err)
		}
	}
	for _, name := range []string{"", "/a", "../a", "a/../../b"} {
		if p, err := JoinPath("/hvctl", name); !errors.Is(err, ErrPath) {
			t.Errorf("JoinPath %q: %q, %v", name, p, err)
		}
	}
	for _, tc := range []struct {
		root, dir string
		want      bool
	}{{"/a/b", "/a/b", true}, {"/a/b", "/a/b/c", true}, {"/a/b", "/a/bc", false}, {"/a/bc", "/a/b", false}, {"/", "/a", true}, {"/a/b", "/a", false}} {
		if got := Within(tc.root, tc.dir); got != tc.want {
			t.Errorf("Within(%q, %q) is %v", tc.root, tc.dir, got)
		}
	}
}

func TestLoadTakesNoForeignDirectory(t *testing.T) {
	for _, paths := range []map[string]string{
		{},
		{"memory": "/etc"},
		{"memory": "/c/memory"},
		{"memory": "/c/memoryx/a"},
		{"memory": "/c/memory/../cpu/a"},
		{"moon": "/c/moon/a"},
		{"cpu": "/c/cpu/a", "cpuacct": "/c/cpu/b"},
		{"": "/c/unified/a"},
	} {
		if g, err := onlyV1.Load(paths); !errors.Is(err, ErrPath) {
			t.Errorf("%v: %v, %v", paths, g, err)
		}
	}
	g, err := onlyV1.Load(map[string]string{"cpu": "/c/cpu/a", "cpuacct": "/c/cpu/a", "pids": "/c/pids/a"})
	if err != nil || g.String() != "/a" || len(g.Paths()) != 3 {
		t.Errorf("%v, %v", g, err)
	}
}
