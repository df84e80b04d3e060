package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// machineTier is the run on the machine itself: unit and kvm tests at once.
const machineTier = "machine"

// event is one line of `go test -json` (see `go doc cmd/test2json`).
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

// result is the end of one test, or of a package that failed outside of tests
// (Test is empty then).
type result struct {
	Tier, Package, Test string
	Action              string // pass, fail or skip
	Reason              string // of a skip
	Seconds             float64
	Again               bool // of a run that repeats what had failed
}

type counts struct{ pass, fail, skip, unsteady int }

func (n counts) String() string {
	s := fmt.Sprintf("%d passed, %d failed, %d skipped", n.pass, n.fail, n.skip)
	if n.unsteady > 0 {
		s += fmt.Sprintf(", %d unsteady", n.unsteady)
	}
	return s
}

// collector turns events into results and shows progress.
type collector struct {
	tier    string
	needs   needsOf // with tier "machine"
	out     io.Writer
	results []result

	output map[string][]string // of tests and packages that have not ended
	pkgs   map[string]*counts
	ended  map[string]bool
}

// read consumes events until the end of r. Lines that are not events are
// shown as they are.
func (c *collector) read(r io.Reader) error {
	c.output, c.pkgs, c.ended = map[string][]string{}, map[string]*counts{}, map[string]bool{}
	lines := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(c.out, "%s", line)
			} else {
				c.event(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *collector) event(e event) {
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "output":
		c.output[key] = append(c.output[key], e.Output)
	case "build-output":
		fmt.Fprint(c.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			c.packageEnd(e)
		} else {
			c.testEnd(e, key)
		}
		delete(c.output, key)
	}
}

func (c *collector) testEnd(e event, key string) {
	n := c.pkgs[e.Package]
	if n == nil {
		n = &counts{}
		c.pkgs[e.Package] = n
	}
	r := result{Tier: c.tierOf(e.Package, e.Test), Package: e.Package, Test: e.Test, Action: e.Action, Seconds: e.Elapsed}
	switch e.Action {
	case "pass":
		n.pass++
	case "skip":
		n.skip++
		r.Reason = skipReason(c.output[key])
	case "fail":
		n.fail++
		for _, o := range c.output[key] {
			fmt.Fprint(c.out, o)
		}
	}
	c.results = append(c.results, r)
}

func (c *collector) packageEnd(e event) {
	n := c.pkgs[e.Package]
	if n == nil {
		n = &counts{}
	}
	short := strings.TrimPrefix(strings.TrimPrefix(e.Package, modulePath), "/")
	c.ended[e.Package] = true
	delete(c.pkgs, e.Package) // fuzzing runs a package once per target
	if e.Action == "fail" {
		c.showUnfinished(e.Package)
	}
	if e.Action == "fail" && n.fail == 0 {
		// It did not build, a TestMain failed, or it died: no test tells.
		c.results = append(c.results, result{Tier: c.tierOf(e.Package, ""), Package: e.Package, Action: "fail"})
	}
	if e.Action != "fail" && n.pass+n.skip == 0 {
		return // no tests
	}
	verdict := "ok  "
	if e.Action == "fail" {
		verdict = "FAIL"
	}
	fmt.Fprintf(c.out, "%s  %-8s %-28s %4d passed", verdict, c.tier, short, n.pass)
	if n.fail > 0 {
		fmt.Fprintf(c.out, ", %d failed", n.fail)
	}
	if n.skip > 0 {
		fmt.Fprintf(c.out, ", %d skipped", n.skip)
	}
	fmt.Fprintf(c.out, "  %.1fs\n", e.Elapsed)
}

// showUnfinished shows what a package and those of its tests that have not
// ended said: a panic or a time-out speaks in the test that was running.
func (c *collector) showUnfinished(pkg string) {
	for _, key := range sortedKeys(c.output) {
		if strings.HasPrefix(key, pkg+"\x00") {
			fmt.Fprint(c.out, strings.Join(c.output[key], ""))
			delete(c.output, key)
		}
	}
}

// finish turns packages that never said how they ended into failures.
func (c *collector) finish(expect []string) {
	for pkg := range c.pkgs {
		if !c.ended[pkg] {
			expect = append(expect, pkg)
		}
	}
	seen := map[string]bool{}
	for _, pkg := range expect {
		if c.ended[pkg] || seen[pkg] {
			continue
		}
		seen[pkg] = true
		fmt.Fprintf(c.out, "FAIL  %-8s %s: its end was never reported\n", c.tier, pkg)
		c.showUnfinished(pkg)
		c.results = append(c.results, result{Tier: c.tierOf(pkg, ""), Package: pkg, Action: "fail"})
	}
}

// tierOf splits the machine's run: a test that asks for /dev/kvm, root or a
// guest kernel belongs to the kvm tier.
func (c *collector) tierOf(pkg, test string) string {
	if c.tier != machineTier {
		return c.tier
	}
	top, _, _ := strings.Cut(test, "/")
	if wantsMachine(c.needs[pkg][top]) {
		return "kvm"
	}
	return "unit"
}

var logged = regexp.MustCompile(`^\s*\S+\.go:\d+: (.*)`)

// skipReason is what the test logged last.
func skipReason(output []string) string {
	for _, line := range slices.Backward(output) {
		if m := logged.FindStringSubmatch(line); m != nil {
			return strings.TrimSpace(m[1])
		}
	}
	return "no reason given"
}

func save(dir, tier string, results []result) error {
	b, err := json.Marshal(results)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, tier+".json"), b, 0o644)
}

func loadAll(dir string) ([]result, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []result
	for _, f := range files {
		rs, err := load(dir, strings.TrimSuffix(filepath.Base(f), ".json"))
		if err != nil {
			return nil, err
		}
		all = append(all, rs...)
	}
	return all, nil
}

func load(dir, tier string) (rs []result, err error) {
	f := filepath.Join(dir, tier+".json")
	b, err := os.ReadFile(f)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &rs); err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return rs, nil
}
