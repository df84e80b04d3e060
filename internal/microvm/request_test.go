package microvm

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestRequestWithoutNetworkKeepsNames(t *testing.T) {
	spec := &specs.Spec{Process: &specs.Process{Args: []string{"true"}}}
	v := &VM{cfg: &workload.Config{Spec: spec, Net: workload.Network{Mode: workload.NetNone}}}
	if n := v.network(); n != nil {
		t.Errorf("nothing asked for, but the guest is told %+v", n)
	}
	v.cfg.Net.Hosts = []string{"other.test:fd00::1"}
	v.cfg.Net.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	n := v.network()
	if n == nil || len(n.Hosts) != 1 || n.Hosts[0].Address != "fd00::1" || n.Hosts[0].Names[0] != "other.test" ||
		len(n.DNS) != 1 || n.DNS[0] != "10.0.0.1" {
		t.Fatalf("the guest is told %+v", n)
	}
	if n.MAC != "" || len(n.Addresses)+len(n.Routes) != 0 {
		t.Errorf("an interface that is not there: %+v", n)
	}
}

func TestRequestCarriesTheProcessLimit(t *testing.T) {
	v := &VM{cfg: &workload.Config{Spec: &specs.Spec{Process: &specs.Process{}}, Res: workload.Resources{PIDs: 17}}}
	if r, err := v.request(); err != nil || r.PIDs != 17 {
		t.Errorf("limit %d, %v", r.PIDs, err)
	}
}

func TestRequestNamesTheDisks(t *testing.T) {
	v := &VM{cfg: &workload.Config{Spec: &specs.Spec{Process: &specs.Process{}}}}
	v.cfg.VM.Disks = []workload.Disk{{Path: "/a"}, {Path: "/b", Serial: "mine"}}
	r, err := v.request()
	if err != nil || len(r.Disks) != 2 || r.Disks[0].Serial != "disk0" || r.Disks[1].Serial != "mine" {
		t.Errorf("disks %+v, %v", r.Disks, err)
	}
}

func TestMemoryThatCannotChange(t *testing.T) {
	v := &VM{cfg: &workload.Config{}}
	v.live.Store(&guest{machine: &machine.Machine{}})
	if err := v.UpdateMemory(t.Context(), 1<<30); !errors.Is(err, workload.ErrUnsupported) || !strings.Contains(err.Error(), "--max-memory") {
		t.Errorf("without --max-memory: %v", err)
	}
	v.cfg.VM.MaxMemoryBytes, v.cfg.Res.MemoryBytes = 1<<30, 1<<20
	if err := v.UpdateMemory(t.Context(), 1<<19); !errors.Is(err, workload.ErrUnsupported) || !strings.Contains(err.Error(), "--balloon") {
		t.Errorf("less than at the start: %v", err)
	}
	v.cfg.VM.MaxMemoryBytes = 0
	later := []workload.MigrateRequest{{AtOnce: true}, {OnTimeout: "postcopy"}}
	for _, r := range append(later, workload.MigrateRequest{OnTimeout: "force"}) {
		if err := v.notLater(r); err != nil {
			t.Error(err)
		}
	}
	v.cfg.VM.MaxMemoryBytes = 1 << 30
	for _, r := range later {
		if err := v.notLater(r); !errors.Is(err, workload.ErrUnsupported) || !strings.Contains(err.Error(), "post-copy") {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := v.notLater(workload.MigrateRequest{OnTimeout: "force"}); err != nil {
		t.Error(err)
	}
}

func TestUpdateOfAVM(t *testing.T) {
	v := &VM{cfg: &workload.Config{Res: workload.Resources{CPUs: 1.5}}} // two processors
	for _, tc := range []struct {
		name string
		u    workload.Update
		says string
	}{
		{"less", workload.Update{CPUs: new(0.5), CPUWeight: new(uint64(7))}, ""},
		{"all", workload.Update{CPUs: new(2.0)}, ""},
		{"more", workload.Update{CPUs: new(2.5)}, "2 processors"},
		{"next to nothing", workload.Update{CPUs: new(0.001)}, "0.01"},
		{"processes", workload.Update{PIDs: new(int64(5))}, ""}, // the guest's kernel counts them
	} {
		err := v.CheckUpdate(tc.u)
		if (err == nil) != (tc.says == "") || err != nil && (!errors.Is(err, workload.ErrUnsupported) || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
