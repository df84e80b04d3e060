package plan

import "testing"

// Of a workload that is started afresh nothing in memory goes along, and what is refused
// stays so.
func TestAFreshStartLosesMemory(t *testing.T) {
	p, err := Make([]Resource{
		{Kind: RAM, Name: "ram"},
		{Kind: Tmpfs, Name: "/tmp"},
		{Kind: Network, Name: "eth0", Detail: "bridge"},
		{Kind: Layer, Name: "layer", Bytes: 1 << 20},
		{Kind: Privilege, Name: "CAP_SYS_ADMIN"},
	}, CPU{}, Facts{Disk: 1 << 30, Networks: []string{"user"}}, []Bind{{Network, "eth0", Rebind, "user"}})
	if err != nil {
		t.Fatal(err)
	}
	p.Fresh()
	for i, want := range []Action{Drop, Drop, Rebind, Move, Refuse} {
		if r := p.Rows[i]; r.Action != want {
			t.Errorf("%s: %s (%s), want %s", r.Kind, r.Action, r.Reason, want)
		}
	}
	if p.Rows[2].Reason != askedFor {
		t.Errorf("the network: %q", p.Rows[2].Reason)
	}
}
