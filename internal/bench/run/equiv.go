package run

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/probe"
	"github.com/hvctl/hvctl/internal/bench/result"
	"golang.org/x/sys/unix"
)

// look is one test of the equivalence chapter: a program, what is done to it,
// and whether its output is facts by the line or a digest.
type look struct {
	name   string
	job    Job
	feed   int         // bytes of input
	signal unix.Signal // sent when the program is ready; 0: none
	facts  bool
}

// looks are all tests, or one of each sort.
func looks(brief bool) []look {
	run := func(name string, argv ...string) look {
		return look{name: name, job: Job{Argv: append([]string{Program}, argv...)}}
	}
	see := run("see", "see", "/tmp")
	see.facts = true
	user := see
	user.name, user.job.User, user.job.Cwd = "see as 1000:1001 in /tmp", "1000:1001", "/tmp"
	echo := run("echo", "echo")
	echo.feed = 1 << 20
	all := []look{see, user, run("say 3000001 bytes", "say", "3000001"), echo}
	codes, signals := []string{"0", "1", "7", "125", "137", "255"}, []string{"9", "11", "15"}
	if brief {
		all, codes, signals = []look{see, user, echo}, codes[2:3], signals[1:2]
	}
	for _, code := range codes {
		all = append(all, run("exit "+code, "exit", code))
	}
	for _, sig := range signals {
		all = append(all, run("die "+sig, "die", sig))
	}
	caught := run("catch SIGTERM", "catch")
	caught.signal = unix.SIGTERM
	killed := run("killed by SIGKILL", "idle")
	killed.signal = unix.SIGKILL
	return append(all, caught, killed, run("no such program", "nonsense"))
}

// equivalence runs every test, or one of each sort, once on every target.
func equivalence(ctx context.Context, o Options, r *result.Result) error {
	all, done := looks(o.Brief), 0
	for _, l := range all {
		for _, w := range o.Worlds {
			o.Progress(done, len(all)*len(o.Worlds), "equivalence, "+l.name+": "+w.Name(), 0)
			if o.PlantOutput == w.Name() && l.facts {
				l.job.Argv = append(l.job.Argv[:len(l.job.Argv):len(l.job.Argv)], "-planted")
			}
			facts, err := observe(ctx, w, l)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				facts = []result.Fact{{Error: err.Error()}}
			}
			for _, f := range facts {
				f.Test, f.Target = l.name, w.Name()
				r.Facts = append(r.Facts, f)
			}
			done++
		}
	}
	if err := reach(ctx, o, r); err != nil {
		return err
	}
	return o.Save()
}

// observe runs one test on one target.
func observe(ctx context.Context, w World, l look) (facts []result.Fact, err error) {
	s, err := open(ctx, w, l.job)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	add := func(name, value string) {
		facts = append(facts, result.Fact{Name: name, Value: value, Instance: s.ID[:12]})
	}
	if l.signal != 0 {
		if err := s.ready(); err != nil {
			return nil, err
		}
		if err := s.signal(ctx, l.signal); err != nil {
			return nil, err
		}
	}
	fed := make(chan error, 1)
	go func() { fed <- feed(s.In, l.feed) }()
	out, err := s.rest()
	if err != nil {
		return nil, err
	}
	exit, err := s.end()
	if err != nil {
		return nil, err
	}
	// A program that reads nothing closes its input when it likes.
	if err := <-fed; err != nil && l.feed > 0 {
		return nil, fmt.Errorf("write its input: %w", err)
	}
	add("exit status", strings.TrimSpace(fmt.Sprintf("%d %s", exit.Code, exit.Err)))
	if !l.facts {
		add("output", fmt.Sprintf("%d bytes, sha256 %x", len(out), sha256.Sum256(out)))
		return facts, nil
	}
	var saw []probe.Fact
	if err := json.Unmarshal(out, &saw); err != nil {
		return nil, fmt.Errorf("%s: %.200q", w.Name(), out)
	}
	for _, f := range saw {
		add(f.Name, f.Value)
	}
	return facts, nil
}

// feed writes so many bytes and then the end of input.
func feed(in io.WriteCloser, n int) error {
	return errors.Join(probe.Say(in, n), in.Close())
}
