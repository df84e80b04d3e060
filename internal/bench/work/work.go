package work

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/workload"
)

// Piece is something to run.
type Piece struct {
	// Name is before the names of its probes; empty: nothing is.
	Name   string
	Config func() (*workload.Config, error)
	// Read takes figures from what it wrote, nanoseconds by name; nil: there are none.
	Read func(stdout []byte) (map[string]float64, error)
	// Same tells that its output and exit are to be the same everywhere.
	Same bool
}

// Options say what to run, and where.
type Options struct {
	Chapter string
	Targets []Target // the first is the base, which runs twice in each block
	Pieces  []Piece
	// Progress is told of each instance before it starts, and what may be left.
	Progress func(done, all int, target string, left time.Duration)
	// Save is called after each block.
	Save func() error
}

// The facts that are compared.
const (
	factExit   = "exit"
	factStdout = "stdout SHA-256"
	factStderr = "stderr SHA-256"
)

// pieceTimeout bounds one instance's life.
const pieceTimeout = 30 * time.Minute

// Run appends to r, whose Plan and Seed are set: samples, and facts about output
// and exit. What was measured stays in r, whatever the error; a cancelled ctx
// marks it as partial.
func Run(ctx context.Context, o Options, r *result.Result) error {
	began := time.Now()
	defer func() { r.TookS += time.Since(began).Seconds() }()
	type turn struct {
		name string
		t    Target
	}
	turns := []turn{{r.Plan.Copy, o.Targets[0]}}
	for _, t := range o.Targets {
		turns = append(turns, turn{t.Name(), t})
	}
	rand.New(rand.NewPCG(r.Seed, 0)).Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
	all, done := (r.Plan.Blocks+1)*len(turns)*len(o.Pieces), 0
	for block := range r.Plan.Blocks + 1 {
		for pos, t := range turns {
			for _, p := range o.Pieces {
				var left time.Duration
				if done > 0 {
					left = time.Since(began) / time.Duration(done) * time.Duration(all-done)
				}
				what := t.name
				if p.Name != "" {
					what += ", " + p.Name
				}
				o.Progress(done, all, what, left)
				at := result.Sample{Chapter: o.Chapter, Target: t.name, Block: block, Pos: pos, Warmup: block == 0}
				samples, facts := one(ctx, t.t, p, at)
				if ctx.Err() != nil {
					r.Partial = fmt.Sprintf("interrupted after %d of %d instances", done, all)
					return errors.Join(context.Cause(ctx), o.Save())
				}
				r.Samples, r.Facts = append(r.Samples, samples...), append(r.Facts, facts...)
				done++
			}
		}
		slices.Reverse(turns)
		if err := o.Save(); err != nil {
			return err
		}
	}
	return nil
}

// one is one instance.
func one(ctx context.Context, t Target, p Piece, at result.Sample) (out []result.Sample, facts []result.Fact) {
	ctx, cancel := context.WithTimeout(ctx, pieceTimeout)
	defer cancel()
	stdout, stderr := newSeen(), newSeen()
	e, err := t.Run(ctx, Job{Config: p.Config, Stdout: stdout, Stderr: stderr})
	if e.ID != "" {
		at.Instance = e.ID[:12]
	}
	add := func(probe string, v float64, unit string) {
		s := at
		s.Probe, s.Value, s.Unit, s.CPUNs, s.Ops = p.probe(probe), v, unit, uint64(e.CPU), 1
		out = append(out, s)
	}
	fail := func(err error) ([]result.Sample, []result.Fact) {
		s := at
		s.Probe, s.Error = p.probe("whole"), err.Error()
		return append(out, s), append(facts, result.Fact{Test: p.test(at.Chapter), Target: at.Target, Instance: at.Instance, Error: err.Error()})
	}
	if err != nil {
		return fail(err)
	}
	if p.Same {
		for name, v := range map[string]string{factExit: exitWords(e.Exit), factStdout: stdout.sum(), factStderr: stderr.sum()} {
			facts = append(facts, result.Fact{Test: p.test(at.Chapter), Name: name, Target: at.Target, Instance: at.Instance, Value: v})
		}
		slices.SortFunc(facts, func(a, b result.Fact) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	} else if e.Exit.Code != 0 {
		return fail(fmt.Errorf("it ended with %s: %s", exitWords(e.Exit), stderr.text()))
	}
	add("whole", float64(e.Whole), result.Nanoseconds)
	if e.Start > 0 {
		add("run", float64(e.Whole-e.Start), result.Nanoseconds)
	}
	add("cpu", float64(e.CPU), result.Nanoseconds)
	if e.Peak > 0 {
		add("memory", float64(e.Peak), result.Bytes)
	}
	if p.Read != nil {
		figures, err := p.Read(stdout.head.Bytes())
		if err != nil {
			return fail(fmt.Errorf("%w: %s", err, stderr.text()))
		}
		for name, ns := range figures {
			add(name, ns, result.Nanoseconds)
		}
	}
	return out, facts
}

func (p *Piece) probe(name string) string {
	if p.Name == "" {
		return name
	}
	return p.Name + "-" + name
}

func (p *Piece) test(chapter string) string {
	if p.Name == "" {
		return chapter
	}
	return p.Name
}

func exitWords(e workload.Exit) string {
	s := fmt.Sprint(e.Code)
	if e.OOM {
		s += ", for lack of memory"
	}
	return s
}

// seen is what an instance wrote: its digest, and its beginning.
type seen struct {
	hash hash.Hash
	head bytes.Buffer
}

// headBytes is how much of the output is looked into.
const headBytes = 1 << 20

func newSeen() *seen { return &seen{hash: sha256.New()} }

func (s *seen) Write(p []byte) (int, error) {
	s.hash.Write(p)
	s.head.Write(p[:min(len(p), max(0, headBytes-s.head.Len()))])
	return len(p), nil
}

func (s *seen) sum() string { return hex.EncodeToString(s.hash.Sum(nil)) }

func (s *seen) text() string {
	b := bytes.TrimSpace(s.head.Bytes())
	return string(b[:min(len(b), 300)])
}
