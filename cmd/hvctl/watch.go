package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// usage is one instance's line of the live view: what it used between two looks.
type usage struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	Backend     string  `json:"backend"`
	CPUPercent  float64 `json:"cpuPercent"` // of one processor
	MemoryBytes uint64  `json:"memoryBytes"`
	LimitBytes  uint64  `json:"memoryLimitBytes"` // 0: none
	PIDs        uint64  `json:"pids"`
	Exits       float64 `json:"exitsPerSecond"`    // to the host; 0 for containers
	VMMExits    float64 `json:"vmmExitsPerSecond"` // of those, to the VMM
	NetRx       float64 `json:"netRxBytesPerSecond"`
	NetTx       float64 `json:"netTxBytesPerSecond"`
	BlockRead   float64 `json:"blockReadBytesPerSecond"`
	BlockWrite  float64 `json:"blockWriteBytesPerSecond"`
}

// usageOf derives rates from a sample and the one before.
func usageOf(s sampled) usage {
	u := usage{
		ID: s.ID, Name: s.Name, Backend: s.Backend, CPUPercent: s.CPUPercent,
		MemoryBytes: s.Stats.MemoryBytes, LimitBytes: s.Stats.MemoryLimitBytes, PIDs: s.Stats.PIDs,
	}
	seconds := s.Stats.At.Sub(s.last.At).Seconds()
	if s.last.At.IsZero() || seconds <= 0 {
		return u
	}
	rate := func(now, before uint64) float64 {
		if now < before { // another life of the same instance
			return 0
		}
		return float64(now-before) / seconds
	}
	now, before := s.Stats, s.last
	u.NetRx, u.NetTx = rate(now.NetRxBytes, before.NetRxBytes), rate(now.NetTxBytes, before.NetTxBytes)
	u.BlockRead, u.BlockWrite = rate(now.BlockReadBytes, before.BlockReadBytes), rate(now.BlockWriteBytes, before.BlockWriteBytes)
	u.VMMExits = rate(vmmExits(now), vmmExits(before))
	u.Exits = u.VMMExits
	if n, ok := now.Counters["kvm.exits_total"]; ok {
		u.Exits = rate(n, before.Counters["kvm.exits_total"])
	}
	return u
}

func vmmExits(s workload.Stats) (n uint64) {
	for name, v := range s.Counters {
		if strings.HasPrefix(name, "exit_") {
			n += v
		}
	}
	return n
}

// orders are the values of --sort.
var orders = map[string]func(a, b usage) int{
	"cpu":    func(a, b usage) int { return cmp.Compare(b.CPUPercent, a.CPUPercent) },
	"memory": func(a, b usage) int { return cmp.Compare(b.MemoryBytes, a.MemoryBytes) },
	"exits":  func(a, b usage) int { return cmp.Compare(b.Exits, a.Exits) },
	"net":    func(a, b usage) int { return cmp.Compare(b.NetRx+b.NetTx, a.NetRx+a.NetTx) },
	"disk":   func(a, b usage) int { return cmp.Compare(b.BlockRead+b.BlockWrite, a.BlockRead+a.BlockWrite) },
	"name":   func(a, b usage) int { return cmp.Compare(a.Name, b.Name) },
}

// watch is `hvctl top` over all instances.
func (p *program) watch(c *cli.Context) error {
	order := orders[c.String("sort")]
	if order == nil {
		return usagef(c, "--sort %s: want cpu, memory, exits, net, disk or name", c.String("sort"))
	}
	return p.sampling(c, func(now []sampled) (bool, error) {
		all := []usage{}
		for _, s := range now {
			all = append(all, usageOf(s))
		}
		slices.SortStableFunc(all, func(a, b usage) int { return cmp.Or(order(a, b), cmp.Compare(a.Name, b.Name)) })
		return c.Bool("once"), p.showUsage(all, c.Bool("json"), p.screen() && !c.Bool("once"))
	})
}

// showUsage prints one look; on a screen of a terminal it fits and replaces the
// one before.
func (p *program) showUsage(all []usage, asJSON, wipe bool) error {
	if asJSON {
		return p.printJSON(all)
	}
	var b bytes.Buffer
	if err := usageTable(&b, all); err != nil || !wipe {
		_, werr := p.stdout.Write(b.Bytes())
		return cmp.Or(err, werr)
	}
	width, height := 80, 24
	if f, ok := p.stdout.(interface{ Fd() uintptr }); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			width, height = w, h
		}
	}
	title := fmt.Sprintf("hvctl top   %s   %d running   ctrl-c ends", time.Now().Format(time.TimeOnly), len(all))
	_, err := p.stdout.Write(fit(title, b.String(), width, height))
	return err
}

// fit makes one screen of a title and lines: as many and as much of them as it
// has room for. Each line is cleared behind its end, so that nothing flickers.
func fit(title, text string, width, height int) []byte {
	lines := append([]string{title, ""}, strings.Split(strings.TrimSuffix(text, "\n"), "\n")...)
	lines = lines[:max(1, min(len(lines), height-1))]
	out := []byte("\x1b[H")
	for _, l := range lines {
		if r := []rune(l); len(r) > width {
			l = string(r[:width])
		}
		out = append(append(out, l...), "\x1b[K\n"...)
	}
	return append(out, "\x1b[J"...)
}

func usageTable(b *bytes.Buffer, all []usage) error {
	t := newTable(b, "NAME", "KIND", "CPU", "MEMORY", "LIMIT", "PIDS", "EXITS/s", "TO VMM/s", "NET IN/s", "NET OUT/s", "READ/s", "WRITTEN/s")
	for _, u := range all {
		limit := "none"
		if u.LimitBytes > 0 {
			limit = bytesText(u.LimitBytes)
		}
		t.row(u.Name, u.Backend, fmt.Sprintf("%.1f %%", u.CPUPercent), bytesText(u.MemoryBytes), limit, fmt.Sprint(u.PIDs),
			fmt.Sprintf("%.0f", u.Exits), fmt.Sprintf("%.0f", u.VMMExits),
			bytesText(uint64(u.NetRx)), bytesText(uint64(u.NetTx)), bytesText(uint64(u.BlockRead)), bytesText(uint64(u.BlockWrite)))
	}
	return t.flush()
}
