package run

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/equiv"
	"github.com/hvctl/hvctl/internal/bench/probe"
	"github.com/hvctl/hvctl/internal/bench/result"
)

// reach finds out what every target gets at of this host: it is looked for from
// here first, and each instance looks for the same.
func reach(ctx context.Context, o Options, r *result.Result) error {
	mark, err := probe.Mark()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "reach")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ours := probe.Reach(dir, mark)
	for _, w := range o.Worlds {
		facts, err := reached(ctx, w, mark, ours)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			facts = []result.Fact{{Error: err.Error()}}
		}
		for _, f := range facts {
			f.Test, f.Target = equiv.Reach, w.Name()
			r.Facts = append(r.Facts, f)
		}
	}
	return nil
}

// reached is what one target says.
func reached(ctx context.Context, w World, mark string, ours []probe.Fact) (facts []result.Fact, err error) {
	s, err := open(ctx, w, Job{Argv: []string{Program, "reach", "/tmp", mark}})
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := s.close(); err == nil {
			err = cerr
		}
	}()
	out, err := s.rest()
	if err != nil {
		return nil, err
	}
	if _, err := s.end(); err != nil {
		return nil, err
	}
	var theirs []probe.Fact
	if err := json.Unmarshal(out, &theirs); err != nil {
		return nil, fmt.Errorf("%s: %.200q", w.Name(), out)
	}
	for _, f := range whose(theirs, ours) {
		facts = append(facts, result.Fact{Name: f.Name, Value: f.Value, Instance: s.ID[:12]})
	}
	return facts, nil
}

// whose says of what an instance got at whether it is the host's. Whoever has
// another boot ID than the host has another kernel, and what it gets at is that
// one's; but a process of the host is the host's.
func whose(theirs, ours []probe.Fact) (out []probe.Fact) {
	host := map[string]string{}
	for _, f := range ours {
		host[f.Name] = f.Value
	}
	ownKernel := false
	for _, f := range theirs {
		ownKernel = ownKernel || f.Name == probe.BootID && f.Value != host[f.Name] && !strings.HasPrefix(f.Value, probe.Out)
	}
	for _, f := range theirs {
		v := equiv.Own
		switch {
		case strings.HasPrefix(f.Value, probe.Out):
			v = f.Value
		case f.Name == probe.Process:
			v = equiv.Hosts
		case ownKernel:
		case f.Value == probe.In, f.Value == host[f.Name], f.Name == "load" && alike(f.Value, host[f.Name]):
			v = equiv.Hosts
		}
		out = append(out, probe.Fact{Name: f.Name, Value: v})
	}
	return out
}

// alike tells whether two /proc/loadavg are of the same machine some time apart:
// the third number is the average of 15 minutes.
func alike(a, b string) bool {
	var x, y [3]float64
	if _, err := fmt.Sscan(a, &x[0], &x[1], &x[2]); err != nil {
		return false
	}
	if _, err := fmt.Sscan(b, &y[0], &y[1], &y[2]); err != nil {
		return false
	}
	return math.Abs(x[2]-y[2]) < 0.1
}
