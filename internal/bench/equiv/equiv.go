// Package equiv judges the facts that were seen of one workload in several
// worlds: equal, different as is expected, or different as it must not be. Popek
// and Goldberg allow two exceptions, timing and the availability of resources;
// what else a kind of target cannot help is in a table, with the reason.
package equiv

import (
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/result"
)

// Verdict is what a row's values mean.
type Verdict string

// The verdicts, worst first.
const (
	Failed     Verdict = "failed"     // a target has no value
	Unexpected Verdict = "unexpected" // it must not be
	Expected   Verdict = "expected"   // it is different, and the table says why
	Same       Verdict = "same"
)

// Row is one fact on all targets.
type Row struct {
	Test, Name string
	Verdict    Verdict
	Values     map[string]string // by target
	Differs    []string          // targets unlike the reference, in the plan's order
	Why        string            // what is expected of them
}

// Reach is the test whose facts say what an instance gets at of its host: Hosts,
// Own, or why it does not. They are not compared; whoever has what is the host's
// needs an excuse.
const (
	Reach = "reach"
	Hosts = "the host's"
	Own   = "its own"
)

// None is the value of a target that has none.
const None = "(none)"

// rule excuses targets from a fact.
type rule struct {
	test, name string // prefixes; empty: any
	who        func(target string) bool
	why        string
}

func isHost(t string) bool    { return t == "host" || t == "host'" }
func isMachine(t string) bool { return slices.Contains([]string{"vm", "vm'", "qemu"}, t) }

func isContainer(t string) bool { return t == "container" || t == "container'" }

var rules = []rule{
	{Reach, "", isHost, "nothing is kept from root on the bare host"},
	{Reach, "boot id", isContainer, sharedKernel}, {Reach, "time of boot", isContainer, sharedKernel}, {Reach, "load", isContainer, sharedKernel},
	{Reach, "memory", isContainer, sharedKernel}, {Reach, "processors", isContainer, sharedKernel}, {Reach, "disks", isContainer, sharedKernel},
	{Reach, "namespace time", isContainer, "a clock of its own is of no use to it"},
	{Reach, "namespace user", isContainer, "root's container: fewer capabilities, a filter and a list of devices stand in for a user namespace"},
	{"", "kernel", isMachine, "a VM has a kernel of its own"},
	{"", "pid", isHost, "the bare host has no PID namespace"},
	{"", "hostname", isHost, "the bare host keeps its name"},
	{"", "Cap", isHost, "nobody takes capabilities away on the bare host"},
	{"", "Seccomp", isHost, "the bare host filters no system calls"},
	{"", "Seccomp", isMachine, "the default filter protects the host's kernel, which a VM's programs do not call"},
	{"", "rlimit", isHost, "the bare host's process has the benchmark's limits"},
	{"die ", "", isHost, "a signal does nothing to a PID namespace's first process that does not catch it"},
	{"", "rlimit nproc", isMachine, "the kernel's default follows from its memory"},
	{"", "rlimit memlock", isMachine, "the kernel's default, of another kernel"},
}

const sharedKernel = "it is read from the host's kernel, which has no namespace for it"

// Judge makes rows, in the order in which the facts were first seen. A fact is
// compared with that of the first target that no rule excuses from it.
func Judge(facts []result.Fact, targets []string) []Row {
	type key struct{ test, name string }
	var keys []key
	values := map[key]map[string]string{}
	broken := map[string][]string{} // tests' targets that failed as a whole
	for _, f := range facts {
		k := key{f.Test, f.Name}
		if f.Error != "" {
			k.name = "the test itself"
			f.Value = "failed: " + f.Error
			broken[f.Test] = append(broken[f.Test], f.Target)
		}
		if values[k] == nil {
			values[k] = map[string]string{}
			keys = append(keys, k)
		}
		if before, ok := values[k][f.Target]; ok {
			f.Value = either(before, f.Value)
		}
		values[k][f.Target] = f.Value
	}
	var rows []Row
	for _, k := range keys {
		row := Row{Test: k.test, Name: k.name, Values: values[k]}
		if k.name == "the test itself" {
			for _, t := range targets {
				if slices.Contains(broken[k.test], t) {
					row.Differs = append(row.Differs, t)
				} else {
					row.Values[t] = "worked"
				}
			}
			row.Verdict = Failed
			rows = append(rows, row)
			continue
		}
		var there []string
		for _, t := range targets {
			if slices.Contains(broken[k.test], t) {
				continue
			}
			if _, ok := row.Values[t]; !ok {
				row.Values[t] = None
			}
			there = append(there, t)
		}
		rows = append(rows, row.judge(there))
	}
	return rows
}

// maxValue bounds what is kept of the values of many instances.
const maxValue = 400

// either is the value of instances of one target that saw this and that: it is
// no instance's, and so differs from any.
func either(a, b string) string {
	if len(a) > maxValue || slices.Contains(strings.Split(a, " or "), b) {
		return a
	}
	return a + " or " + b
}

// judge compares the row's values among targets that have them.
func (row Row) judge(targets []string) Row {
	excuse := func(t string) string {
		for _, r := range rules {
			if r.who(t) && strings.HasPrefix(row.Test, r.test) && strings.HasPrefix(row.Name, r.name) {
				return r.why
			}
		}
		return ""
	}
	row.Verdict = Same
	if len(targets) == 0 {
		return row
	}
	if row.Test == Reach {
		return row.reached(targets, excuse)
	}
	reference := targets[0]
	if i := slices.IndexFunc(targets, func(t string) bool { return excuse(t) == "" }); i >= 0 {
		reference = targets[i]
	}
	for _, t := range targets {
		if row.Values[t] == row.Values[reference] {
			continue
		}
		row.Differs = append(row.Differs, t)
		switch why := excuse(t); {
		case why == "":
			row.Verdict = Unexpected
		case row.Verdict == Same:
			row.Verdict, row.Why = Expected, why
		case row.Why == "":
			row.Why = why
		}
	}
	return row
}

// reached judges what is got at of the host. A fact that somebody does not have is
// an attempt that was not made.
func (row Row) reached(targets []string, excuse func(string) string) Row {
	for _, t := range targets {
		if v := row.Values[t]; v != Hosts && v != None {
			continue
		}
		row.Differs = append(row.Differs, t)
		switch why := excuse(t); {
		case why == "" || row.Values[t] == None:
			row.Verdict = Unexpected
		case row.Verdict == Same:
			row.Verdict, row.Why = Expected, why
		case row.Verdict == Expected && why != row.Why:
			row.Why += "; " + why
		}
	}
	return row
}

// Count is how many rows have each verdict.
func Count(rows []Row) map[Verdict]int {
	n := map[Verdict]int{}
	for _, r := range rows {
		n[r.Verdict]++
	}
	return n
}
