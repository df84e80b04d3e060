package ociconf

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Table renders docs/conformance.md. Every program that ours does not pass
// must have an explanation (see why.go), and none may have one it does not
// need: both are errors that name the programs.
func Table(all []*Results) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(head)
	var problems []error
	for _, r := range all {
		b.WriteString("\n")
		problems = append(problems, section(&b, r)...)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

const head = `# OCI conformance

Made by ` + "`scripts/conformance`" + `; do not edit. The validation programs of
[runtime-tools](https://github.com/opencontainers/runtime-tools) judge runc, crun and our ` + "`hvctl-oci`" + `, each in mount and PID
namespaces of its own. A program passes when it ends well, no test of it fails, and it reports no error outside of a test;
` + "`n/m`" + ` says how many of its tests passed where it does not. One that does not pass is run again, up to twice, and up to six times if its
verdict is a race (killsig, pidfile, poststart, poststop). ` + "`make test`" + ` fails when hvctl-oci no longer passes what it passes here.

The suite is of spec 1.1 and partly of 1.0, and knows only cgroup v1: on cgroup v2 no runtime passes its cgroup programs.
`

func section(b *bytes.Buffer, r *Results) (problems []error) {
	fmt.Fprintf(b, "## %s (%s)\n\nruntime-tools %s. ", titles[r.Mode], r.Kernel, r.Suite)
	var programs []string
	for i, rt := range r.Runtimes {
		if i == 0 {
			programs = slices.Sorted(maps.Keys(rt.Programs))
		}
		if rt.View == V1Only {
			fmt.Fprintf(b, "%s saw the v1 hierarchies only, as it refuses hybrid mode. ", rt.Name)
		}
	}
	b.WriteString("\n\n| program |")
	var rule strings.Builder
	rule.WriteString("|---|")
	for _, rt := range r.Runtimes {
		fmt.Fprintf(b, " %s %s |", rt.Name, rt.Version)
		rule.WriteString("---|")
	}
	b.WriteString("\n" + rule.String() + "\n")
	for _, p := range programs {
		fmt.Fprintf(b, "| %s |", p)
		for _, rt := range r.Runtimes {
			b.WriteString(" " + cell(rt.Programs[p]) + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("| **programs passed** |")
	for _, rt := range r.Runtimes {
		fmt.Fprintf(b, " **%d of %d** |", rt.Passed(), len(rt.Programs))
	}
	b.WriteString("\n")
	ours := r.Of(Ours)
	if ours == nil {
		return []error{fmt.Errorf("%s: no column %s", r.Mode, Ours)}
	}
	b.WriteString("\nWhat hvctl-oci does not pass, and why:\n\n")
	for _, p := range programs {
		why, known := whyNot(p, r.Mode)
		switch passed := ours.Programs[p].Passed; {
		case !passed && !known:
			problems = append(problems, fmt.Errorf("%s: %s does not pass and has no explanation: %s", r.Mode, p, strings.Join(ours.Programs[p].Failed, "; ")))
		case passed && known && racy[p] == "":
			problems = append(problems, fmt.Errorf("%s: %s passes but has an explanation why not", r.Mode, p))
		case !passed:
			fmt.Fprintf(b, "- %s: %s\n", p, why)
		}
	}
	return problems
}

var titles = map[string]string{
	"cgroup-v2": "cgroup v2, in the test host",
	"hybrid-v1": "cgroup v1 in hybrid mode",
	"cgroup-v1": "cgroup v1",
}

func cell(o Outcome) string {
	switch {
	case o.Passed:
		return "pass"
	case o.Total == 0:
		return "**fails**"
	}
	return fmt.Sprintf("**%d/%d**", o.OK, o.Total)
}
