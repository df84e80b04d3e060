package run

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/result"
)

// settle is how long a new instance may come to rest before memory is read.
const settle = 300 * time.Millisecond

// keepShare is the share of the host's memory that density leaves alone: a host
// without any is no place to measure in, and others may live there.
const keepShare = 0.1

// density starts idle instances beside each other, target by target, and reads
// what they cost together after each.
func density(ctx context.Context, o Options, r *result.Result) error {
	for i, w := range o.Worlds {
		before := readPressure()
		err := crowd(ctx, w, o, r)
		r.Machine = append(r.Machine, before.until(readPressure(), "density", i+1))
		if err := errors.Join(err, o.Save()); err != nil {
			return err
		}
	}
	return nil
}

func crowd(ctx context.Context, w World, o Options, r *result.Result) (err error) {
	var all []*session
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.close())
		}
	}()
	add := func(c result.Crowd) { r.Density = append(r.Density, c) }
	for n := 1; n <= o.Crowd; n++ {
		o.Progress(n-1, o.Crowd, "density: "+w.Name(), 0)
		s, err := open(ctx, w, Job{Argv: []string{Program, "idle"}})
		if err == nil {
			all = append(all, s)
			err = s.ready()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c := result.Crowd{Target: w.Name(), N: n}
		if err != nil {
			c.Error, c.End = err.Error(), "a start that failed"
			add(c)
			return nil // it is what was looked for
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(settle):
		}
		free, total, err := memory()
		if err != nil {
			return err
		}
		c.Available = free
		for _, s := range all {
			u, err := s.usage(ctx)
			if err != nil {
				c.Error = err.Error()
			}
			c.PSS, c.Cgroup = c.PSS+proportional(s.pids()), c.Cgroup+u.MemoryBytes
		}
		switch {
		case float64(free) < keepShare*float64(total):
			c.End = fmt.Sprintf("%.0f %% of the host's memory are left", 100*float64(free)/float64(total))
		case n == o.Crowd:
			c.End = "as many as were asked for"
		}
		add(c)
		if c.End != "" {
			return nil
		}
	}
	return nil
}

// memory is what the host has left, and has.
func memory() (available, total uint64, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		for name, to := range map[string]*uint64{"MemAvailable:": &available, "MemTotal:": &total} {
			if rest, ok := strings.CutPrefix(s.Text(), name); ok {
				if _, err := fmt.Sscan(rest, to); err != nil {
					return 0, 0, fmt.Errorf("/proc/meminfo: %q: %w", s.Text(), err)
				}
				*to <<= 10
			}
		}
	}
	if total == 0 {
		return 0, 0, errors.New("/proc/meminfo: no MemTotal")
	}
	return available, total, nil
}
