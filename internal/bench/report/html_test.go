package report_test

import (
	"math"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/hvctl/hvctl/internal/bench/report"
	"github.com/hvctl/hvctl/internal/bench/result"
)

// recorded is the run whose report is in the repository.
const recorded = "../../../docs/results/bench"

func pageOf(t testing.TB, r *result.Result) string {
	t.Helper()
	var b strings.Builder
	if err := report.HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// checkPage fails when a page has anything active, or that it would fetch, or
// numbers that are none.
func checkPage(t testing.TB, page string) {
	t.Helper()
	z := html.NewTokenizer(strings.NewReader(page))
	depth := 0
	for {
		switch z.Next() {
		case html.CommentToken, html.DoctypeToken:
		case html.ErrorToken:
			if depth != 0 {
				t.Errorf("%d elements svg are not closed", depth)
			}
			return
		case html.TextToken:
			if text := string(z.Text()); strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
				t.Errorf("text %q", text)
			}
		case html.EndTagToken:
			if name, _ := z.TagName(); string(name) == "svg" {
				depth--
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			tok := z.Token()
			switch tok.Data {
			case "script", "iframe", "object", "embed", "img", "link", "base", "form", "foreignobject", "image", "use":
				t.Errorf("an element %s", tok.Data)
			case "svg":
				depth++
			}
			for _, a := range tok.Attr {
				switch {
				case strings.HasPrefix(a.Key, "on"), a.Key == "src", a.Key == "srcset", a.Key == "xlink:href":
					t.Errorf("%s has an attribute %s", tok.Data, a.Key)
				case a.Key == "href" && !strings.HasPrefix(a.Val, "#"):
					t.Errorf("a link to %q", a.Val)
				case strings.Contains(a.Val, "NaN") || strings.Contains(a.Val, "url("):
					t.Errorf("%s %s=%q", tok.Data, a.Key, a.Val)
				}
			}
		}
	}
}

func TestPageOfTheRecordedRunHasEveryPart(t *testing.T) {
	r, err := result.Load(recorded)
	if err != nil {
		t.Fatal(err)
	}
	page := pageOf(t, r)
	checkPage(t, page)
	for _, want := range []string{"EMULATED (tcg-icount): no claim about hardware", "EMULATED · no claim about hardware", ">Losses", ">Wins", "lifecycle", "quoted from a lecture", "Environment", "hvctl --store"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not there", want)
		}
	}
	if strings.Index(page, ">Losses") > strings.Index(page, ">Wins") {
		t.Error("wins come before losses")
	}
}

// hostile is text that would be something else if it were not escaped.
const hostile = `</title></style></text></svg><script>alert(1)</script><img src=x onerror=alert(2)>" onload="alert(3)' {{.}} ]]> | ` + "`\x00\xff\u202e\n"

func TestPageOfHostileResultsIsInert(t *testing.T) {
	long := strings.Repeat("wide ", 100_000)
	for name, r := range map[string]*result.Result{
		"names": func() *result.Result {
			r := made(2)
			r.Mode, r.Command, r.Partial, r.Env = hostile, hostile+long, hostile, map[string]string{hostile: hostile}
			r.Plan.Targets, r.Plan.Copy, r.Image = []string{hostile, hostile + "2"}, hostile+"'", result.Image{Ref: hostile, Digest: hostile, Probes: hostile}
			for i, target := range []string{hostile, hostile + "2", hostile + "'"} {
				for b := range 6 {
					r.Samples = append(r.Samples, result.Sample{Chapter: hostile, Probe: hostile, Target: target, Block: b, Value: float64(1 + i), Unit: hostile, Exits: map[string]uint64{hostile: 3}, Ops: 1})
				}
				r.Samples = append(r.Samples, result.Sample{Chapter: hostile, Probe: result.Instance, Target: target, Error: hostile + long})
			}
			r.Facts = []result.Fact{{Test: hostile, Name: hostile, Target: hostile, Value: hostile + long, Error: hostile}}
			r.Controls = []result.Control{{Test: hostile, Target: hostile, Unit: hostile, Asked: 1, Measured: 1, Least: 1, Most: 2, How: hostile}}
			r.Density = []result.Crowd{{Target: hostile, N: 1, End: hostile}, {Target: hostile, N: 2}, {Target: hostile, N: 3, Error: hostile}}
			r.Moves = []result.Move{{Kind: hostile, Target: hostile, TotalNs: 1}, {Kind: hostile, Target: hostile, Error: hostile}}
			r.Machine = []result.Pressure{{Chapter: hostile}}
			return r
		}(),
		"numbers": func() *result.Result {
			r := made(1)
			r.TookS, r.Plan.Blocks, r.Plan.CPUs = math.Inf(1), math.MinInt, math.NaN()
			odd := []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, -1, math.MaxFloat64, math.SmallestNonzeroFloat64, 1e-300}
			for _, chapter := range []string{"micro", "lifecycle", "life"} {
				for _, probe := range []string{"total", "start", "fork"} {
					for b, v := range append(odd, odd...) {
						for i, target := range []string{"host", "host'", "vm"} {
							r.Samples = append(r.Samples, result.Sample{Chapter: chapter, Probe: probe, Target: target, Block: b + i/2, Value: v, Ops: -1, CPUNs: math.MaxUint64})
						}
					}
				}
			}
			for _, v := range odd {
				r.Controls = append(r.Controls, result.Control{Test: "c", Target: "vm", Asked: v, Measured: v, Least: v, Most: v}, result.Control{Target: "vm", Asked: 1, Measured: v, Most: v})
			}
			for i, n := range []uint64{0, math.MaxUint64, 1} {
				r.Density = append(r.Density, result.Crowd{Target: "vm", N: -i, Available: n, PSS: n, Cgroup: n}, result.Crowd{Target: "host", N: 1, PSS: n})
				r.Moves = append(r.Moves, result.Move{TotalNs: int64(n), StillNs: -int64(n), Bytes: n})
			}
			r.Machine = []result.Pressure{{CPU: math.NaN(), Load: math.Inf(1), IO: -1}}
			return r
		}(),
		"one target": {Schema: 1, Mode: "hw", Plan: result.Plan{Targets: []string{"vm"}, Copy: "vm'"}, Samples: made(1).Samples},
		"nothing":    {Schema: 1, Mode: "hw", Plan: result.Plan{Targets: []string{"host", "vm"}}},
		"one sample": {Schema: 1, Mode: "hw", Plan: result.Plan{Targets: []string{"host", "vm"}}, Samples: []result.Sample{{Chapter: "lifecycle", Probe: "total", Target: "vm", Value: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			page := pageOf(t, r)
			checkPage(t, page)
			if len(page) > 4<<20 {
				t.Errorf("the page has %d bytes", len(page))
			}
			var text strings.Builder
			if err := report.Text(&text, r); err != nil || strings.ContainsAny(text.String(), "\x00\x1b\u202e") {
				t.Errorf("the summary: %v", err)
			}
			var md strings.Builder
			if err := report.Markdown(&md, r); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(md.String()) {
				if strings.Contains(line, "<script") && !strings.HasPrefix(line, "    ") { // code is not HTML
					t.Errorf("report.md: %s", line)
				}
			}
		})
	}
}

func TestTooMuchForAReportIsRefused(t *testing.T) {
	many := func(n int, s func(i int) result.Sample) *result.Result {
		r := &result.Result{Plan: result.Plan{Targets: []string{"host", "vm"}}}
		for i := range n {
			r.Samples = append(r.Samples, s(i))
		}
		return r
	}
	for name, r := range map[string]*result.Result{
		"targets": {Plan: result.Plan{Targets: make([]string, 1000)}},
		"probes":  many(5000, func(i int) result.Sample { return result.Sample{Probe: strings.Repeat("p", i)} }),
		"samples": many(300_000, func(int) result.Sample { return result.Sample{} }),
	} {
		if err := report.HTML(&strings.Builder{}, r); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzHTML(f *testing.F) {
	f.Add([]byte(`{"schema":1,"mode":"tcg","plan":{"targets":["host","vm"],"copy":"host'"},"samples":[
{"chapter":"lifecycle","probe":"total","target":"host","block":1,"value":1e308},{"chapter":"lifecycle","probe":"total","target":"vm","block":1,"value":-2,"unit":"B"}]}`))
	f.Add([]byte(`{"schema":1,"mode":"<script>","plan":{"targets":["\"><svg onload=a>"]},"samples":[{"chapter":"</style>","probe":"\u0000","target":"\"><svg onload=a>"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := result.Decode(b)
		if err != nil || len(r.Samples) > 100 {
			return
		}
		var page strings.Builder
		if err := report.HTML(&page, r); err == nil && strings.Contains(strings.ToLower(page.String()), "<script") {
			t.Error("a script")
		}
	})
}
