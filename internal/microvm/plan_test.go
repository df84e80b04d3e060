package microvm

import (
	"encoding/json"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/spare"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
)

func TestWhatTheEngineCannotIsRefusedByThePlan(t *testing.T) {
	for _, tc := range []struct {
		row  plan.Row
		want string
	}{
		{plan.Row{Resource: plan.Resource{Kind: plan.DirRO}, Action: plan.Copy}, "mounted"},
		{plan.Row{Resource: plan.Resource{Kind: plan.DirRW, Name: "/d"}, Action: plan.Rebind}, "dir-rw:/d=rebind:PATH"},
		{plan.Row{Resource: plan.Resource{Kind: plan.DirRW}, Action: plan.Rebind, Arg: "/there"}, ""},
		{plan.Row{Resource: plan.Resource{Kind: plan.Layers}, Action: plan.Copy}, ""},
		{plan.Row{Resource: plan.Resource{Kind: plan.Layers}, Action: plan.Rebind}, ""},
		{plan.Row{Resource: plan.Resource{Kind: plan.RawDisk}, Action: plan.Move}, "only reads"},
		{plan.Row{Resource: plan.Resource{Kind: plan.RawDisk}, Action: plan.Refuse}, ""},
		{plan.Row{Resource: plan.Resource{Kind: plan.Network, Detail: "bridge"}, Action: plan.Rebind, Arg: "user"}, "another kind"},
		{plan.Row{Resource: plan.Resource{Kind: plan.Network, Detail: "bridge"}, Action: plan.Rebind, Arg: "bridge"}, ""},
		{plan.Row{Resource: plan.Resource{Kind: plan.Port}, Action: plan.Ref}, "ref"},
		{plan.Row{Resource: plan.Resource{Kind: plan.Port}, Action: plan.Drop}, ""},
	} {
		if got := unable(tc.row); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s %s: %q, want %q", tc.row.Kind, tc.row.Action, got, tc.want)
		}
	}
}

func TestRefusalsAreNamedAllAtOnce(t *testing.T) {
	if err := refusals(plan.Plan{Rows: []plan.Row{{Action: plan.Move}}}); err != nil {
		t.Error(err)
	}
	err := refusals(plan.Plan{Rows: []plan.Row{
		{Resource: plan.Resource{Kind: plan.Port, Name: "tcp/80"}, Action: plan.Refuse, Reason: "taken"},
		{Resource: plan.Resource{Kind: plan.RAM, Name: "ram"}, Action: plan.Refuse, Reason: "too much"},
	}})
	if err == nil || !strings.Contains(err.Error(), "tcp/80: taken") || !strings.Contains(err.Error(), "ram: too much") {
		t.Error(err)
	}
}

func TestTheDestinationTellsWhatItHas(t *testing.T) {
	testenv.Require(t, testenv.KVM)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := workload.Port{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: uint16(l.Addr().(*net.TCPAddr).Port), Port: 80, Protocol: "tcp"}
	own := &workload.Config{DataDir: filepath.Join(t.TempDir(), "not", "there", "yet"), VM: workload.VM{Receive: &workload.Receive{Images: t.TempDir()}}}
	v := &VM{}
	ask := func(q question) (f plan.Facts) {
		t.Helper()
		b, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = v.facts(own)(t.Context(), b); err == nil {
			err = json.Unmarshal(b, &f)
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := ask(question{Image: "none", CPUs: 1, Ports: []workload.Port{taken, {Port: 81, Protocol: "udp"}}})
	if f.Memory == 0 || f.Disk == 0 || f.CPU.Vendor == "" || len(f.CPU.Features) == 0 || len(f.Images) != 0 {
		t.Errorf("%+v", f)
	}
	if want := []string{spare.PortName(taken)}; !slices.Equal(f.Busy, want) {
		t.Errorf("busy %q, want %q", f.Busy, want)
	}
	own.Net.Publish = []workload.Port{{HostPort: 1}}
	if f := ask(question{CPUs: 1, Ports: []workload.Port{taken}}); len(f.Busy) != 0 {
		t.Errorf("ports that are not published here are %q", f.Busy)
	}
	for _, bad := range []string{"", "{", `{"more":1}`, `{"cpus":0}`, `{"cpus":100000}`} {
		if _, err := v.facts(own)(t.Context(), json.RawMessage(bad)); err == nil {
			t.Errorf("%q is answered", bad)
		}
	}
}
