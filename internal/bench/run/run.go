package run

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/probe"
	"github.com/hvctl/hvctl/internal/bench/result"
)

// Options say what to measure, beside the result's plan.
type Options struct {
	Worlds    []World       // the first is the base, which runs twice in each block
	BatchTime time.Duration // on the base; elsewhere the number of operations is the same
	// For tests of the benchmark: a target to slow down by 5 per cent, and one
	// whose program sees something wrong.
	Plant, PlantOutput string
	Brief              bool          // one test of equivalence of each sort, and no warm-up of moves
	Starts             int           // lives in the lifecycle chapter, after a warm-up
	ControlTime        time.Duration // of each test of resource control
	Controls           []string      // only tests whose name has one of these words; empty: all
	ControlBlocks      int           // how often each is made
	// Disk makes a block device to try limits on; nil: none are tried. Network says
	// whether there is a bridge to try them on.
	Disk       func() (*Disk, error)
	Network    bool
	Crowd      int           // most instances side by side
	Moves      int           // of each kind
	Checkpoint *Checkpointer // nil: there is none
	// Pin binds the benchmark, and what it starts, to the run's processor, or frees
	// it.
	Pin func(on bool) error
	// Progress is told of each instance before it starts, and what may be left.
	Progress func(done, all int, target string, left time.Duration)
	// Announce is told how long the run will take, before its first measurement.
	Announce func(time.Duration)
	// Save is called after each block.
	Save func() error
}

// Program is the probes' in the image.
const Program = "/hvbench"

// instanceTimeout bounds one instance's life.
const instanceTimeout = 15 * time.Minute

// phase is a part of a run, with a loop of its own.
type phase struct {
	chapter string // that it belongs to; empty: those of the probes
	run     func(context.Context, Options, *result.Result) error
}

var phases = []phase{{"equiv", equivalence}, {"", probes}, {"life", starts}, {"density", density}, {"iso", controls}, {"mig", moves}}

// Chapters are all that there are, in the order in which they run.
func Chapters() (names []string) {
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, p := range phases {
		if p.chapter != "" {
			add(p.chapter)
			continue
		}
		for _, pr := range probe.All() {
			add(pr.Chapter)
		}
	}
	return names
}

// Run fills r, whose Plan and Seed are set. What was measured stays in r,
// whatever the error; a cancelled ctx marks it as partial.
func Run(ctx context.Context, o Options, r *result.Result) error {
	began := time.Now()
	defer func() { r.TookS = time.Since(began).Seconds() }()
	lives := warmUp(ctx, o)
	o.Announce(estimate(o, r, lives))
	for _, p := range phases {
		switch {
		case p.chapter != "" && !slices.Contains(r.Plan.Chapters, p.chapter):
			continue
		case p.chapter == "" && len(probe.Select(r.Plan.Chapters)) == 0:
			continue
		}
		err := p.run(ctx, o, r)
		if ctx.Err() != nil {
			if r.Partial == "" {
				r.Partial = fmt.Sprintf("%v in the chapter %s", context.Cause(ctx), p.chapter)
			}
			return errors.Join(context.Cause(ctx), o.Save())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// probes are the chapters of small operations.
func probes(ctx context.Context, o Options, r *result.Result) error {
	counts, err := calibrate(ctx, o, r)
	if err != nil { // nothing can be compared with it; the other chapters go on
		r.Samples = append(r.Samples, result.Sample{Chapter: "lifecycle", Probe: result.Instance, Target: o.Worlds[0].Name(), Error: "find how many operations a batch has: " + err.Error()})
		return o.Save()
	}
	type turn struct {
		name string
		w    World
	}
	turns := []turn{{r.Plan.Copy, o.Worlds[0]}}
	for _, w := range o.Worlds {
		turns = append(turns, turn{w.Name(), w})
	}
	rand.New(rand.NewPCG(r.Seed, 0)).Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
	all, done := (r.Plan.Blocks+1)*len(turns), 0
	measured := time.Now()
	for block := range r.Plan.Blocks + 1 {
		before := readPressure()
		for pos, t := range turns {
			var left time.Duration
			if done > 0 {
				left = time.Since(measured) / time.Duration(done) * time.Duration(all-done)
			}
			o.Progress(done, all, t.name, left)
			at := result.Sample{Target: t.name, Block: block, Pos: pos, Warmup: block == 0}
			argv := []string{Program, "probes", "-step", "-chapters", strings.Join(r.Plan.Chapters, ","), "-counts", counts, "-batches", fmt.Sprint(r.Plan.Batches)}
			if o.Plant == t.name {
				argv = append(argv, "-slow", "5")
			}
			r.Samples = append(r.Samples, measure(ctx, t.w, argv, at)...)
			if ctx.Err() != nil {
				r.Partial = fmt.Sprintf("%v after %d of %d instances of the probes", context.Cause(ctx), done, all)
				return context.Cause(ctx)
			}
			done++
		}
		r.Machine = append(r.Machine, before.until(readPressure(), "probes", block))
		slices.Reverse(turns)
		if err := o.Save(); err != nil {
			return err
		}
	}
	return nil
}

// calibrate finds how many operations a batch has, as hvbench's argument.
func calibrate(ctx context.Context, o Options, r *result.Result) (string, error) {
	var counts []string
	argv := []string{Program, "probes", "-batches", "1", "-time", o.BatchTime.String(), "-chapters", strings.Join(r.Plan.Chapters, ",")}
	err := drive(ctx, o.Worlds[0], argv, nil, func(l probe.Line) {
		if l.Error == "" {
			counts = append(counts, fmt.Sprintf("%s=%d", l.Probe, l.N))
		}
	})
	if err == nil && len(counts) == 0 {
		err = errors.New("no probe worked")
	}
	return strings.Join(counts, ","), err
}

// measure is one instance. Its samples have at's target and place.
func measure(ctx context.Context, w World, argv []string, at result.Sample) (out []result.Sample) {
	chapter := map[string]string{}
	for _, p := range probe.All() {
		chapter[p.Name] = p.Chapter
	}
	m := &meter{at: at}
	err := drive(ctx, w, argv, m, func(l probe.Line) {
		if l.Probe == "" || ctx.Err() != nil { // what was finished is kept; that it was cut off is no failure
			return
		}
		s := m.at
		s.Chapter, s.Probe, s.Value, s.BatchNs, s.Ops, s.InsideNs, s.Error = chapter[l.Probe], l.Probe, l.PerOpNs, l.BatchNs, l.Done, l.InsideNs, l.Error
		m.charge(&s)
		out = append(out, s)
	})
	if ctx.Err() != nil {
		return out
	}
	if err != nil {
		s := m.at
		s.Chapter, s.Probe, s.Error = "lifecycle", result.Instance, err.Error()
		out = append(out, s)
	}
	return out
}

// meter looks at an instance from outside.
type meter struct {
	at     result.Sample
	before Usage
	since  time.Time
	after  Usage
	hostNs int64
	err    error
}

func (m *meter) charge(s *result.Sample) {
	s.HostNs = m.hostNs
	if m.err != nil {
		s.Error = strings.TrimSpace(s.Error + " statistics: " + m.err.Error())
		return
	}
	s.CPUNs = m.after.CPUNs - m.before.CPUNs
	for k, n := range m.after.Exits {
		if s.Exits == nil {
			s.Exits = map[string]uint64{}
		}
		s.Exits[k] = n - m.before.Exits[k]
	}
}

// drive runs one instance to its end and removes it. m, if any, steps it and
// reads its counters around each probe.
func drive(ctx context.Context, w World, argv []string, m *meter, each func(probe.Line)) (err error) {
	ctx, cancel := context.WithTimeout(ctx, instanceTimeout)
	defer cancel()
	l, err := w.Start(ctx, Job{Argv: argv})
	if err != nil {
		return err
	}
	always := context.WithoutCancel(ctx)
	removed := false
	defer func() {
		if !removed {
			err = errors.Join(err, l.remove(always))
		}
	}()
	defer context.AfterFunc(ctx, func() { _ = l.remove(always) })()
	if m != nil {
		m.at.Instance = l.ID[:12]
	}
	in := bufio.NewReader(l.Out)
	for {
		line, rerr := in.ReadBytes('\n')
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return rerr
		}
		var v probe.Line
		if err := json.Unmarshal(line, &v); err != nil {
			return fmt.Errorf("%s: %s", w.Name(), strings.TrimSpace(string(line)))
		}
		if m != nil && v.Ready != "" {
			m.before, m.err = l.usage(ctx)
			m.since = time.Now()
			if _, err := l.In.Write([]byte("\n")); err != nil {
				return err
			}
			continue
		}
		if m != nil {
			m.hostNs = time.Since(m.since).Nanoseconds()
			after, uerr := l.usage(ctx)
			m.after, m.err = after, errors.Join(m.err, uerr)
		}
		each(v)
	}
	_ = l.In.Close()
	exit, err := l.wait()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if exit.Code != 0 {
		return fmt.Errorf("%s: the probes ended with %d %s", w.Name(), exit.Code, exit.Err)
	}
	removed = true
	return l.remove(always)
}
