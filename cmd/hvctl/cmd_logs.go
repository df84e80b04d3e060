package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdLogs() *cli.Command {
	return &cli.Command{
		Name:      "logs",
		Usage:     "print what an instance wrote",
		ArgsUsage: "INSTANCE",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until the instance ends"},
			&cli.StringFlag{Name: "tail", Aliases: []string{"n"}, Value: "all", Usage: "only the last `NUMBER` of lines"},
			&cli.StringFlag{Name: "since", Usage: "only from `TIME` on: RFC 3339, or ago as in 10m"},
			&cli.BoolFlag{Name: "timestamps", Aliases: []string{"t"}, Usage: "begin each line with its time"},
			&cli.BoolFlag{Name: "json", Usage: "print the log's own lines of JSON"},
		},
		BashComplete: p.completeInstances(),
		Action:       p.one(p.logs),
	}
}

func (p *program) logs(c *cli.Context, h *launch.Handle) error {
	tail := -1
	if s := c.String("tail"); s != "all" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return usagef(c, "--tail %s: want a number of lines, or all", s)
		}
		tail = n
	}
	since, err := parseSince(c.String("since"), time.Now())
	if err != nil {
		return err
	}
	w := &logPrinter{out: p.stdout, err: p.stderr, times: c.Bool("timestamps"), json: c.Bool("json"), since: since}
	follow := c.Bool("follow")
	if tail < 0 {
		return h.ReadLog(c.Context, instance.ReadOptions{Follow: follow}, w.print)
	}
	return w.tail(c.Context, h, tail, follow)
}

// parseSince reads a time, or how long ago it was; "": the beginning.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q: want RFC 3339, such as 2026-01-02T15:04:05Z, or a duration, such as 10m", s)
}

// logPrinter prints pieces of output, with times at the beginning of lines.
type logPrinter struct {
	out, err io.Writer
	times    bool
	json     bool
	since    time.Time
	midLine  map[string]bool // streams whose last piece did not end its line
}

func (l *logPrinter) print(e instance.Entry) error {
	if e.Time.Before(l.since) {
		return nil
	}
	w := l.out
	if e.Stream == instance.Stderr {
		w = l.err
	}
	switch {
	case l.json:
		_, err := l.out.Write(instance.EncodeEntry(e))
		return err
	case !l.times:
		_, err := w.Write(e.Data())
		return err
	}
	if l.midLine == nil {
		l.midLine = map[string]bool{}
	}
	var b []byte
	for line := range bytes.Lines(e.Data()) {
		if !l.midLine[e.Stream] {
			b = append(e.Time.UTC().AppendFormat(b, time.RFC3339Nano), ' ')
		}
		b = append(b, line...)
		l.midLine[e.Stream] = line[len(line)-1] != '\n'
	}
	_, err := w.Write(b)
	return err
}

// tail prints the last n lines there are, and goes on from there.
func (l *logPrinter) tail(ctx context.Context, h *launch.Handle, n int, follow bool) error {
	var last ring
	caughtUp := false
	return h.ReadLog(ctx, instance.ReadOptions{Follow: follow, CaughtUp: func() error {
		caughtUp = true
		for _, e := range last.entries {
			if err := l.print(e); err != nil {
				return err
			}
		}
		last = ring{}
		return nil
	}}, func(e instance.Entry) error {
		if caughtUp {
			return l.print(e)
		}
		last.add(e, n)
		return nil
	})
}

// ring keeps the end of the output, cut at lines.
type ring struct {
	entries []instance.Entry
	lines   int // ended lines in entries
	open    map[string]bool
}

// add appends e and drops whole lines from the front until n are left. A line
// that has no end yet counts as one.
func (r *ring) add(e instance.Entry, n int) {
	if r.open == nil {
		r.open = map[string]bool{}
	}
	for line := range bytes.Lines(e.Data()) {
		piece := e
		piece.Text, piece.Bytes = "", line
		r.entries = append(r.entries, piece)
		if !r.open[e.Stream] {
			r.lines++
		}
		r.open[e.Stream] = line[len(line)-1] != '\n'
	}
	for r.lines > n && len(r.entries) > 0 {
		// The first line is the first piece and those of its stream up to
		// the next end of line.
		head := r.entries[0]
		if head.Bytes[len(head.Bytes)-1] == '\n' {
			r.entries = r.entries[1:]
			r.lines--
			continue
		}
		first := head.Stream
		kept := r.entries[:0:0]
		done := false
		for _, p := range r.entries {
			if !done && p.Stream == first {
				done = p.Bytes[len(p.Bytes)-1] == '\n'
				continue
			}
			kept = append(kept, p)
		}
		r.entries = kept
		r.lines--
	}
}
