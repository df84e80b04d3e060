package workload

import "testing"

func TestTraceRequestsChoose(t *testing.T) {
	com1 := &Range{First: 0x3f8, Last: 0x3ff}
	for _, c := range []struct {
		name   string
		r      TraceRequest
		vcpu   int
		reason string
		addr   uint64
		want   bool
	}{
		{"nothing asked, all told", TraceRequest{}, 3, "intr", 0, true},
		{"the reason", TraceRequest{Reasons: []string{"io", "intr"}}, 0, "intr", 0, true},
		{"another reason", TraceRequest{Reasons: []string{"io"}}, 0, "mmio", 0, false},
		{"another vCPU", TraceRequest{VCPUs: []int{1, 2}}, 0, "io", 0, false},
		{"its vCPU", TraceRequest{VCPUs: []int{1, 2}}, 2, "io", 0, true},
		{"a port of the range", TraceRequest{Ports: com1}, 0, "io", 0x3ff, true},
		{"a port outside", TraceRequest{Ports: com1}, 0, "io", 0x400, false},
		{"ports want io alone", TraceRequest{Ports: com1}, 0, "intr", 0, false},
		{"ports and more reasons", TraceRequest{Ports: com1, Reasons: []string{"io", "mmio"}}, 0, "mmio", 5, true},
		{"ports and addresses", TraceRequest{Ports: com1, Addresses: &Range{First: 5, Last: 5}}, 0, "mmio", 5, true},
		{"an address outside", TraceRequest{Ports: com1, Addresses: &Range{First: 5, Last: 5}}, 0, "mmio", 6, false},
	} {
		if got := c.r.Wants(c.vcpu, c.reason, c.addr); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for _, r := range []TraceRequest{{Ports: &Range{First: 2, Last: 1}}, {Ports: &Range{First: 0, Last: 0x10000}}, {Addresses: &Range{First: 1}}} {
		if r.Check() == nil {
			t.Errorf("%+v was taken", r)
		}
	}
}
