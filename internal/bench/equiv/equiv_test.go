package equiv_test

import (
	"slices"
	"testing"

	"github.com/hvctl/hvctl/internal/bench/equiv"
	"github.com/hvctl/hvctl/internal/bench/result"
)

// seen are facts of one name, a value for each of host, container and vm; an
// empty one was not seen.
func seen(test, name string, values ...string) (f []result.Fact) {
	for i, v := range values {
		if v != "" {
			f = append(f, result.Fact{Test: test, Name: name, Target: targets[i], Value: v})
		}
	}
	return f
}

var targets = []string{"host", "container", "vm"}

func TestDifferencesAreToldApart(t *testing.T) {
	for _, c := range []struct {
		name    string
		facts   []result.Fact
		want    equiv.Verdict
		differs []string
	}{
		{"equal everywhere", seen("see", "computed", "a", "a", "a"), equiv.Same, nil},
		{"another digest in the VM", seen("see", "computed", "a", "a", "b"), equiv.Unexpected, []string{"vm"}},
		{"another kernel in the VM", seen("see", "kernel", "6.1", "6.1", "6.12"), equiv.Expected, []string{"vm"}},
		{"another kernel in the container", seen("see", "kernel", "6.1", "6.2", "6.12"), equiv.Unexpected, []string{"container", "vm"}},
		{"the bare host has all capabilities", seen("see", "CapEff", "ff", "0f", "0f"), equiv.Expected, []string{"host"}},
		{"container and VM differ where only the host may", seen("see", "CapEff", "ff", "0f", "0e"), equiv.Unexpected, []string{"host", "vm"}},
		{"a fact that one does not have", seen("see", "env X", "1", "1", ""), equiv.Unexpected, []string{"vm"}},
		{"the first process survives in a namespace", seen("die 15", "exit status", "143", "99", "99"), equiv.Expected, []string{"host"}},
		{"the host reaches what is its own", seen(equiv.Reach, "open /dev/mem", equiv.Hosts, "no: no such file or directory", equiv.Own), equiv.Expected, []string{"host"}},
		{"a container reaches the host's memory", seen(equiv.Reach, "open /dev/mem", equiv.Hosts, equiv.Hosts, equiv.Own), equiv.Unexpected, []string{"host", "container"}},
		{"a container sees the host's load", seen(equiv.Reach, "load", equiv.Hosts, equiv.Hosts, equiv.Own), equiv.Expected, []string{"host", "container"}},
		{"a VM sees the host's load", seen(equiv.Reach, "load", equiv.Hosts, equiv.Hosts, equiv.Hosts), equiv.Unexpected, []string{"host", "container", "vm"}},
		{"an attempt that was not made", seen(equiv.Reach, "kernel log", equiv.Hosts, "no: not permitted", ""), equiv.Unexpected, []string{"host", "vm"}},
		{"nobody reaches it", seen(equiv.Reach, "open /dev/port", "no: x", "no: y", "no: x"), equiv.Same, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			rows := equiv.Judge(c.facts, targets)
			if len(rows) != 1 || rows[0].Verdict != c.want || !slices.Equal(rows[0].Differs, c.differs) || (c.want == equiv.Expected) != (rows[0].Why != "" && c.want == equiv.Expected) {
				t.Errorf("%+v", rows)
			}
		})
	}
}

// A target whose test failed is listed, and does not make the others differ.
func TestFailedTestIsARowOfItsOwn(t *testing.T) {
	facts := append(seen("exit 7", "exit status", "7", "7"), result.Fact{Test: "exit 7", Target: "vm", Error: "no kernel"})
	rows := equiv.Judge(facts, targets)
	if n := equiv.Count(rows); len(rows) != 2 || n[equiv.Same] != 1 || n[equiv.Failed] != 1 || rows[1].Values["vm"] != "failed: no kernel" {
		t.Errorf("%+v", rows)
	}
}
