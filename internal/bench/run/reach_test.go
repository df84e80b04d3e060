package run

import (
	"slices"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/equiv"
	"github.com/hvctl/hvctl/internal/bench/probe"
)

func TestWhatIsReachedIsTheHostsOrItsOwn(t *testing.T) {
	ours := []probe.Fact{{Name: probe.BootID, Value: "a"}, {Name: "memory", Value: "1"}, {Name: "load", Value: "0.50 0.40 0.30 1/9 7"}, {Name: "open /dev/mem", Value: probe.In}}
	for _, c := range []struct {
		name   string
		theirs []probe.Fact
		want   []string
	}{
		{"a container that is given too much", []probe.Fact{{Name: probe.BootID, Value: "a"}, {Name: "memory", Value: "2"}, {Name: "load", Value: "0.90 0.41 0.31 2/9 8"}, {Name: "open /dev/mem", Value: probe.In}, {Name: probe.Process, Value: probe.In}},
			[]string{equiv.Hosts, equiv.Own, equiv.Hosts, equiv.Hosts, equiv.Hosts}},
		{"a machine", []probe.Fact{{Name: probe.BootID, Value: "b"}, {Name: "memory", Value: "1"}, {Name: "open /dev/mem", Value: probe.In}, {Name: probe.Process, Value: probe.Out + "none is seen"}},
			[]string{equiv.Own, equiv.Own, equiv.Own, "no: none is seen"}},
		{"a machine that sees the host's process", []probe.Fact{{Name: probe.BootID, Value: "b"}, {Name: probe.Process, Value: probe.In}}, []string{equiv.Own, equiv.Hosts}},
		{"one that hides its boot ID", []probe.Fact{{Name: probe.BootID, Value: probe.Out + "empty"}, {Name: "open /dev/mem", Value: probe.In}}, []string{"no: empty", equiv.Hosts}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, f := range whose(c.theirs, ours) {
				got = append(got, f.Value)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
