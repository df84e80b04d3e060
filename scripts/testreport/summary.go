package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// summarize prints the closing table, a line per tier that was asked for or
// has results, and reports whether all is well. A test that was skipped in one
// tier but ran in another does not count as skipped. A skip for want of
// something in must is as bad as a failure. A test that failed, and passed both
// times when it was run again, counts as unsteady.
func summarize(w io.Writer, all []result, asked, must []string) bool {
	all, unsteady := splitAgain(all)
	ran := map[string]bool{}
	for _, r := range all {
		if r.Action != "skip" {
			ran[r.Package+" "+r.Test] = true
		}
	}
	var total counts
	ok := true
	skipped := map[string][]string{} // reason -> tests
	missing := map[string]bool{}
	order := slices.Clone(asked)
	for _, r := range all {
		if !slices.Contains(order, r.Tier) {
			order = append(order, r.Tier)
		}
	}
	fmt.Fprintln(w)
	for _, tier := range order {
		var n counts
		elsewhere := 0
		for _, r := range all {
			if r.Tier != tier {
				continue
			}
			key := r.Package + " " + r.Test
			switch {
			case r.Action == "pass":
				n.pass++
			case r.Action == "fail" && unsteady[topOf(r)]:
				n.unsteady++
			case r.Action == "fail":
				n.fail++
			case ran[key]:
				elsewhere++
			default:
				n.skip++
				if !slices.Contains(skipped[r.Reason], key) {
					skipped[r.Reason] = append(skipped[r.Reason], key)
				}
				for _, m := range must {
					if strings.HasPrefix(r.Reason, "needs "+m+":") {
						missing[m] = true
					}
				}
			}
		}
		if n == (counts{}) && elsewhere == 0 {
			fmt.Fprintf(w, "%-6s no tests\n", tier+":")
			continue
		}
		fmt.Fprintf(w, "%-6s %s", tier+":", n)
		if elsewhere > 0 {
			fmt.Fprintf(w, " (%d more not run here, but in another tier)", elsewhere)
		}
		fmt.Fprintln(w)
		total.pass += n.pass
		total.fail += n.fail
		total.skip += n.skip
		total.unsteady += n.unsteady
	}
	tellSlow(w, all)
	tellSkips(w, skipped)
	tellUnsteady(w, unsteady)
	tellFailures(w, all, unsteady)
	for _, m := range sortedKeys(missing) {
		fmt.Fprintf(w, "tests were skipped for want of %s, which should be there\n", m)
		ok = false
	}
	if total == (counts{}) {
		fmt.Fprintln(w, "no test ran")
		ok = false
	}
	if len(unsteady) > mostUnsteady {
		fmt.Fprintf(w, "%d tests were unsteady: more than %d are a failure\n", len(unsteady), mostUnsteady)
		ok = false
	}
	fmt.Fprintln(w, total)
	return ok && total.fail == 0
}

// tellSlow names the tests that took longest, of those that took a while.
func tellSlow(w io.Writer, all []result) {
	const most, aWhile = 15, 20
	var slow []result
	for _, r := range all {
		if r.Seconds >= aWhile && !strings.Contains(r.Test, "/") {
			slow = append(slow, r)
		}
	}
	if len(slow) == 0 {
		return
	}
	slices.SortStableFunc(slow, func(a, b result) int { return cmp.Compare(b.Seconds, a.Seconds) })
	fmt.Fprintln(w, "\nslowest:")
	for _, r := range slow[:min(len(slow), most)] {
		fmt.Fprintf(w, "  %4.0f s  %s: %s %s\n", r.Seconds, r.Tier, strings.TrimPrefix(r.Package, modulePath+"/"), r.Test)
	}
}

func tellSkips(w io.Writer, skipped map[string][]string) {
	if len(skipped) == 0 {
		return
	}
	fmt.Fprintln(w, "\nskipped in every tier:")
	for _, reason := range sortedKeys(skipped) {
		fmt.Fprintf(w, "  %s\n", reason)
		for _, t := range skipped[reason] {
			fmt.Fprintf(w, "    %s\n", strings.TrimPrefix(t, modulePath+"/"))
		}
	}
}

func tellFailures(w io.Writer, all []result, unsteady map[string]bool) {
	head := "\nfailed:\n"
	for _, r := range all {
		if r.Action != "fail" || unsteady[topOf(r)] {
			continue
		}
		what := r.Test
		if what == "" {
			what = "(the package itself)"
		}
		fmt.Fprintf(w, "%s  %s: %s %s\n", head, r.Tier, strings.TrimPrefix(r.Package, modulePath+"/"), what)
		head = ""
	}
	if head == "" {
		fmt.Fprintln(w)
	}
}
