package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
)

func TestRatesAreDifferencesOverTime(t *testing.T) {
	at := time.Unix(1000, 0)
	s := sampled{
		Name: "web", CPUPercent: 12.5,
		Stats: workload.Stats{At: at.Add(2 * time.Second), NetRxBytes: 3000, BlockWriteBytes: 10, Counters: map[string]uint64{
			"exit_pio_total": 60, "exit_mmio_total": 40, "kvm.exits_total": 1000, "root.kicks_total": 9}},
		last: workload.Stats{At: at, NetRxBytes: 1000, BlockWriteBytes: 20, Counters: map[string]uint64{"exit_pio_total": 50, "kvm.exits_total": 400}},
	}
	u := usageOf(s)
	if u.NetRx != 1000 || u.VMMExits != 25 || u.Exits != 300 || u.CPUPercent != 12.5 {
		t.Errorf("%+v", u)
	}
	if u.BlockWrite != 0 {
		t.Error("a counter that fell back gave a rate")
	}
	delete(s.Stats.Counters, "kvm.exits_total") // a host without KVM's statistics
	if u := usageOf(s); u.Exits != 25 {
		t.Errorf("%v exits, want those to the VMM", u.Exits)
	}
	s.last = workload.Stats{}
	if u := usageOf(s); u.NetRx != 0 || u.Exits != 0 {
		t.Errorf("rates of a first look: %+v", u)
	}
}

func TestAScreenHoldsWhatFits(t *testing.T) {
	got := string(fit("title", "one\ntwo two two\nthree\nfour\n", 5, 5))
	want := "\x1b[Htitle\x1b[K\n\x1b[K\none\x1b[K\ntwo t\x1b[K\n\x1b[J"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTheTableHasALinePerInstance(t *testing.T) {
	var b bytes.Buffer
	if err := usageTable(&b, []usage{{Name: "a\x1b[2J", MemoryBytes: 1 << 20}, {Name: "b", LimitBytes: 1 << 30}}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"); n != 3 || strings.Contains(b.String(), "\x1b") {
		t.Errorf("%q", b.String())
	}
}
