package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// collect runs events through a collector of the given tier.
func collect(t *testing.T, tier, events string, needs needsOf, expect ...string) ([]result, string) {
	t.Helper()
	var out strings.Builder
	c := &collector{tier: tier, out: &out, needs: needs}
	if err := c.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	c.finish(expect)
	return c.results, out.String()
}

const skipEvents = `{"Action":"output","Package":"m/p","Test":"TestA","Output":"    a_test.go:7: needs linux: HVCTL_TEST_KERNELS is not set\n"}
{"Action":"output","Package":"m/p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"m/p","Test":"TestA"}
{"Action":"pass","Package":"m/p","Test":"TestB"}
{"Action":"pass","Package":"m/p"}
`

func summary(all []result, must ...string) (string, bool) {
	var out strings.Builder
	ok := summarize(&out, all, nil, must)
	return out.String(), ok
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return lines[len(lines)-1]
}

func TestSkipIsToldWithItsReason(t *testing.T) {
	rs, _ := collect(t, "unit", skipEvents, nil)
	out, ok := summary(rs)
	if !ok || !strings.Contains(out, "needs linux: HVCTL_TEST_KERNELS is not set\n    m/p TestA") {
		t.Errorf("ok %v, summary:\n%s", ok, out)
	}
	if lastLine(out) != "1 passed, 0 failed, 1 skipped" {
		t.Errorf("last line %q", lastLine(out))
	}
}

func TestSkipOfWhatMustBeThereFails(t *testing.T) {
	rs, _ := collect(t, "unit", skipEvents, nil)
	if out, ok := summary(rs, "kvm", "linux"); ok || !strings.Contains(out, "for want of linux") {
		t.Errorf("ok %v, summary:\n%s", ok, out)
	}
}

func TestSkipThatRanElsewhereIsNoSkip(t *testing.T) {
	rs, _ := collect(t, "unit", skipEvents, nil)
	guest, _ := collect(t, "guest", `{"Action":"pass","Package":"m/p","Test":"TestA"}
{"Action":"pass","Package":"m/p"}
`, nil)
	out, ok := summary(append(rs, guest...), "linux")
	if !ok || lastLine(out) != "2 passed, 0 failed, 0 skipped" {
		t.Errorf("ok %v, summary:\n%s", ok, out)
	}
}

func TestFailures(t *testing.T) {
	for _, tc := range []struct {
		name, events string
		expect       []string
		want         string // in the output
	}{
		{"of a test", `{"Action":"output","Package":"m/p","Test":"TestA","Output":"it broke\n"}
{"Action":"fail","Package":"m/p","Test":"TestA"}
{"Action":"fail","Package":"m/p"}`, nil, "it broke"},
		{"of a build", `{"Action":"build-output","ImportPath":"m/p","Output":"undefined: x\n"}
{"Action":"fail","Package":"m/p"}`, nil, "undefined: x"},
		{"of a package that dies in a test", `{"Action":"run","Package":"m/p","Test":"TestA"}
{"Action":"output","Package":"m/p","Test":"TestA","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"m/p"}`, nil, "panic: test timed out"},
		{"of a package that never ends", `{"Action":"run","Package":"m/p","Test":"TestA"}
{"Action":"output","Package":"m/p","Test":"TestA","Output":"so far\n"}
{"Action":"pass","Package":"m/p","Test":"TestB"}`, nil, "so far"},
		{"of a package that never starts", ``, []string{"m/p"}, "never reported"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rs, out := collect(t, "guest", tc.events, nil, tc.expect...)
			sum, ok := summary(rs)
			if ok || !strings.HasSuffix(lastLine(sum), " 1 failed, 0 skipped") || !strings.Contains(sum, "guest: m/p") {
				t.Errorf("ok %v, summary:\n%s", ok, sum)
			}
			if !strings.Contains(out, tc.want) {
				t.Errorf("output lacks %q:\n%s", tc.want, out)
			}
		})
	}
}

// Of a test that failed and passed twice when it was run again the summary says
// so; one that fails again, or passes once only, has failed.
func TestRunAgain(t *testing.T) {
	failed := []result{{Tier: "guest", Package: "m/p", Test: "TestA/x", Action: "fail"}, {Tier: "guest", Package: "m/p", Test: "TestA", Action: "fail"},
		{Tier: "guest", Package: "m/p", Test: "TestB", Action: "pass"}}
	pass, fail := result{Tier: "guest", Package: "m/p", Test: "TestA", Action: "pass", Again: true}, result{Tier: "guest", Package: "m/p", Test: "TestA", Action: "fail", Again: true}
	died := result{Tier: "guest", Package: "m/p", Action: "fail", Again: true}
	for _, tc := range []struct {
		name  string
		again []result
		ok    bool
		last  string
	}{
		{"not run again", nil, false, "1 passed, 2 failed, 0 skipped"},
		{"passed twice", []result{pass, pass}, true, "1 passed, 0 failed, 0 skipped, 2 unsteady"},
		{"passed once", []result{pass}, false, "1 passed, 2 failed, 0 skipped"},
		{"failed once more", []result{pass, fail, pass}, false, "1 passed, 2 failed, 0 skipped"},
		{"the package died", []result{pass, pass, died}, false, "1 passed, 2 failed, 0 skipped"},
	} {
		out, ok := summary(slices.Concat(failed, tc.again))
		if ok != tc.ok || lastLine(out) != tc.last || ok != strings.Contains(out, "themselves (what they said is above):\n  m/p TestA\n") || ok == strings.Contains(out, "failed:\n  guest") {
			t.Errorf("%s: ok %v, summary:\n%s", tc.name, ok, out)
		}
	}
	var out strings.Builder
	printFailed(&out, failed)
	if out.String() != "m/p\tTestA\n" {
		t.Errorf("to be run again: %q", out.String())
	}
	// Too many of them, or something else than a test, and nothing is run again.
	var many, unsteady []result
	for _, name := range []string{"TestC", "TestD", "TestE", "TestF"} {
		r := result{Tier: "guest", Package: "m/p", Test: name, Action: "fail"}
		many = append(many, r)
		r.Action, r.Again = "pass", true
		unsteady = append(unsteady, r, r)
	}
	out.Reset()
	printFailed(&out, many)
	printFailed(&out, append(failed, result{Tier: "guest", Package: "m/p", Action: "fail"}))
	if out.String() != "" {
		t.Errorf("to be run again: %q", out.String())
	}
	if sum, ok := summary(append(many, unsteady...)); ok {
		t.Errorf("four unsteady tests passed:\n%s", sum)
	}
}

func TestNothingRanIsAFailure(t *testing.T) {
	if out, ok := summary(nil); ok {
		t.Errorf("no results passed:\n%s", out)
	}
}

func TestSlowTestsAreNamed(t *testing.T) {
	all := []result{
		{Tier: "guest", Package: "m/p", Test: "TestA", Action: "pass", Seconds: 31},
		{Tier: "guest", Package: "m/p", Test: "TestB", Action: "pass", Seconds: 97},
		{Tier: "guest", Package: "m/p", Test: "TestB/part", Action: "pass", Seconds: 96},
		{Tier: "unit", Package: "m/p", Test: "TestQuick", Action: "pass", Seconds: 1},
	}
	var out strings.Builder
	summarize(&out, all, nil, nil)
	b, a := strings.Index(out.String(), "97 s  guest: m/p TestB\n"), strings.Index(out.String(), "31 s  guest: m/p TestA\n")
	if b < 0 || a < b || strings.Contains(out.String(), "part") || strings.Contains(out.String(), "Quick") {
		t.Error(out.String())
	}
}

func TestLinesThatAreNoEventsAreShown(t *testing.T) {
	rs, out := collect(t, "unit", "panic: out of cheese\n"+skipEvents, nil)
	if len(rs) != 2 || !strings.Contains(out, "panic: out of cheese\n") {
		t.Errorf("%d results, output:\n%s", len(rs), out)
	}
}

func TestPackageRunTwiceIsCountedApart(t *testing.T) {
	once := `{"Action":"pass","Package":"m/p","Test":"FuzzA"}
{"Action":"pass","Package":"m/p"}
`
	rs, out := collect(t, "fuzz", once+strings.ReplaceAll(once, "FuzzA", "FuzzB"), nil)
	if len(rs) != 2 || strings.Count(out, " 1 passed") != 2 {
		t.Errorf("%d results, output:\n%s", len(rs), out)
	}
}

func TestMachineTierIsSplitByNeeds(t *testing.T) {
	needs := needsOf{"m/p": {"TestA": {"KVM": true}, "TestB": {"IASL": true}}}
	rs, _ := collect(t, machineTier, strings.ReplaceAll(skipEvents, `"TestA"`, `"TestA/sub"`), needs)
	if rs[0].Tier != "kvm" || rs[1].Tier != "unit" {
		t.Errorf("results %+v", rs)
	}
}

func TestResultsSurviveTheState(t *testing.T) {
	dir := t.TempDir()
	a, b := result{Tier: "unit", Package: "m/p", Test: "TestA", Action: "skip", Reason: "why"}, result{Tier: "guest", Package: "m/q", Action: "fail"}
	if err := save(dir, "machine", []result{a}); err != nil {
		t.Fatal(err)
	}
	if err := save(dir, "guest", []result{b}); err != nil {
		t.Fatal(err)
	}
	all, err := loadAll(dir)
	if err != nil || !slices.Contains(all, a) || !slices.Contains(all, b) || len(all) != 2 {
		t.Errorf("%+v, err %v", all, err)
	}
}

func TestNeedsAreFoundThroughHelpers(t *testing.T) {
	dir := t.TempDir()
	src := `package p
func helper(t *testing.T) { testenv.Require(t, testenv.KVM) }
func start(t *testing.T) { helper(t) }
func TestDirect(t *testing.T) { testenv.Require(t, testenv.Root, testenv.IASL) }
func TestDeep(t *testing.T) { start(t) }
func TestTool(t *testing.T) { testenv.Require(t, testenv.IASL) }
func TestNone(t *testing.T) {}
func TestLabelled(t *testing.T) { testenv.Require(t, testenv.Root, testenv.AppArmor) }
func ExampleX() { helper(nil) }
`
	if err := os.MkdirAll(filepath.Join(dir, "p"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "p", "p_test.go"), []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := printNeeds(&out, dir); err != nil {
		t.Fatal(err)
	}
	if want := "./p\tIASL,KVM,Root\tExampleX|TestDeep|TestDirect\n./p\tAppArmor,Root\tTestLabelled\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestUnknownSubCommandIsAnError(t *testing.T) {
	if err := run([]string{"frobnicate"}); err == nil {
		t.Error("no error")
	}
	if err := (&collector{tier: "unit", out: io.Discard}).read(strings.NewReader("")); err != nil {
		t.Error(err)
	}
}
