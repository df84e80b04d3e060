package report

import (
	"html/template"
	"math"

	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// quoted is a figure of the lecture that this project began with: printed there,
// measured by others, on a machine of its time that it does not name.
type quoted struct {
	operation  string
	nt, linux  float64 // ns; NaN: none was given
	chapter    string
	probe      string // of ours, that does the same
	difference string // where ours is not quite the same
}

var lecture = []quoted{
	{"Spawn a new process", 12.0e6, 6.0e6, "life", "spawn-exec", ""},
	{"Clone the current process", math.NaN(), 1.0e6, "life", "fork", ""},
	{"Spawn a new thread", 0.9e6, 0.3e6, "life", "thread", ""},
	{"Switch processes, 20 runnable", 0.010e6, 0.019e6, "micro", "switch-proc", ""},
	{"Switch threads, 20 runnable", 0.006e6, 0.019e6, "micro", "switch-thread", ""},
	{"Null RPC", 1e6, 1e6, "micro", "rpc-unix", "the lecture says about 1 ms and names no system; ours is 100 bytes over a socket pair"},
	{"Local call", 1e3, 1e3, "micro", "call", "the lecture says about 1 µs and names no system; ours is a call in Go"},
}

// lectureRow is a line of the table.
type lectureRow struct {
	Operation, NT, Linux, Probe, Difference string
	Ours                                    []string
}

// lecturePart puts the lecture's figures beside a run's.
type lecturePart struct {
	Targets []string
	Rows    []lectureRow
	Figure  figure
}

// lecture is nil when the run has none of the probes.
func (p *pages) lecture() *lecturePart {
	out := &lecturePart{Targets: p.x.r.Plan.Targets}
	strip := plot.Strip{
		Title: "The lecture's figures beside this run's medians", Mark: p.mark, Unit: plot.Nanoseconds, Width: figureWidth,
		Targets: append([]plot.Target{{Name: "NT (lecture)", Series: 4}, {Name: "Linux (lecture)", Series: 5}}, p.targets(p.x.r.Plan.Targets)...),
	}
	for _, q := range lecture {
		k := result.Key{Chapter: q.chapter, Probe: q.probe}
		row := lectureRow{Operation: q.operation, NT: plot.Nanoseconds.Format(q.nt), Linux: plot.Nanoseconds.Format(q.linux), Probe: q.probe, Difference: q.difference}
		line := plot.Row{Name: q.operation, Marks: []plot.Mark{{Series: 4, Value: q.nt, Hollow: true}, {Series: 5, Value: q.linux, Hollow: true}}}
		found := false
		for _, t := range out.Targets {
			s := stats.Summarize(values(p.x.of(k, t)))
			if s.N == 0 {
				row.Ours = append(row.Ours, "–")
				continue
			}
			found = true
			row.Ours = append(row.Ours, plot.Nanoseconds.Format(s.Median))
			line.Marks = append(line.Marks, plot.Mark{Series: p.series[t], Value: s.Median})
		}
		if found {
			out.Rows = append(out.Rows, row)
			strip.Rows = append(strip.Rows, line)
		}
	}
	if len(out.Rows) == 0 {
		return nil
	}
	out.Figure = figure{
		SVG:     template.HTML(strip.Draw().Inline()), //nolint:gosec // package plot escapes
		Caption: "Hollow marks are quoted from the lecture: printed figures, of machines of their time that it does not name, measured by others and not by us. Filled marks are this run's medians. The scale is logarithmic.",
		Note:    p.note(""), Command: p.command,
	}
	return out
}
