package report

import (
	"strings"

	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/stats"
)

// chapterWords say what a chapter is about.
var chapterWords = map[string][2]string{
	"life":      {"Processes and threads", "Making and ending processes and threads, inside an instance."},
	"micro":     {"Kernel operations", "System calls, page faults, switches, messages: one small operation each."},
	"mem":       {"Memory", "Bandwidth, and the latency of dependent loads with small and with huge pages."},
	"io":        {"Files", "Files of the overlay in memory: file systems, not disks, and nothing durable."},
	"net":       {"Network", "TCP over an instance's own loopback."},
	"cpu":       {"Computing", "Nothing but the processor."},
	"lifecycle": {"Lifecycle", "From nothing to the first output and back to nothing, by the host's clock."},
	"apps":      {"Applications", "Programs that people run, each with a load of a stated size inside its instance."},
	"workload":  {"The workload", "The command that was given, once in each fresh instance."},
	"density":   {"Density", "What one more instance costs."},
}

// modeWords say what an execution mode's figures are.
var modeWords = map[string]string{
	"hw":         "Hardware virtualization on this machine: ratios are the overhead of these VMs and containers here.",
	"nested-hw":  "Nested hardware virtualization: ratios are the overhead in this nested setting. Forks, faults and switches cost more than on bare hardware.",
	"pvm":        "Virtualization without hardware support: ratios are the overhead in this setting, and not that of hardware virtualization.",
	"tcg":        "An emulated machine, timed by the clock of the machine that emulates it: no claim about hardware.",
	"tcg-icount": "An emulated machine whose time counts instructions: ratios of work done, and no claim about hardware.",
}

// watermark is across every figure of a run in which hardware had no part.
const watermark = "EMULATED · no claim about hardware"

// class is a verdict's colour.
func class(v stats.Verdict) string {
	switch v {
	case stats.Slower:
		return "bad"
	case stats.Faster:
		return "good"
	case stats.Equal:
		return "flat"
	case stats.NotMeasured:
		return "none"
	case stats.Inconclusive:
	}
	return "open"
}

// words replace "slower" where less of something else than time is better.
func words(v stats.Verdict, u plot.Unit) string {
	if w, ok := map[stats.Verdict]string{stats.Slower: "more", stats.Faster: "less"}[v]; ok && u == plot.Bytes {
		return w
	}
	return string(v)
}

func list(names []string) string {
	for i := range names {
		names[i] = plot.Text(names[i])
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
