package main

import (
	"fmt"
	"io"
	"strings"
)

// mostUnsteady is how many tests of a part are run again, and how many of a
// whole run may have needed it: with more, something is wrong.
const mostUnsteady = 3

// printFailed lists the top-level tests that failed, a line per package. Nothing
// is listed when they are too many, or when a package failed outside of tests.
func printFailed(w io.Writer, rs []result) {
	failed := map[string][]string{}
	n := 0
	for _, r := range rs {
		switch {
		case r.Action != "fail":
		case r.Test == "":
			return
		case !strings.Contains(r.Test, "/"):
			failed[r.Package] = append(failed[r.Package], r.Test)
			n++
		}
	}
	if n > mostUnsteady {
		return
	}
	for _, pkg := range sortedKeys(failed) {
		fmt.Fprintf(w, "%s\t%s\n", pkg, strings.Join(failed[pkg], "|"))
	}
}

// topOf is the top-level test that a result is of, as "PKG TestName".
func topOf(r result) string {
	top, _, _ := strings.Cut(r.Test, "/")
	return r.Package + " " + top
}

// splitAgain takes the runs that repeated failed tests out of all, and says of
// which tests (see topOf) both repeats passed.
func splitAgain(all []result) (first []result, unsteady map[string]bool) {
	passes, failed := map[string]int{}, map[string]bool{}
	for _, r := range all {
		switch {
		case !r.Again:
			first = append(first, r)
		case r.Action == "fail" && r.Test == "":
			failed[r.Package] = true
		case r.Action == "fail":
			failed[topOf(r)] = true
		case r.Action == "pass" && !strings.Contains(r.Test, "/"):
			passes[topOf(r)]++
		}
	}
	unsteady = map[string]bool{}
	for key, n := range passes {
		pkg, _, _ := strings.Cut(key, " ")
		if n >= 2 && !failed[key] && !failed[pkg] {
			unsteady[key] = true
		}
	}
	return first, unsteady
}

// tellUnsteady names the tests that failed and then passed twice.
func tellUnsteady(w io.Writer, unsteady map[string]bool) {
	if len(unsteady) == 0 {
		return
	}
	fmt.Fprintln(w, "\nunsteady: failed, then passed twice by themselves (what they said is above):")
	for _, key := range sortedKeys(unsteady) {
		fmt.Fprintf(w, "  %s\n", strings.TrimPrefix(key, modulePath+"/"))
	}
	fmt.Fprintln(w)
}
