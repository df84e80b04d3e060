package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/probe"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/workload"
)

// promise is one test of the resource control chapter on one target.
type promise struct {
	name string
	run  func(ctx context.Context, w World, o Options, c *result.Control) error
	owns bool // it is about what the bare host's processes share: not for those
}

// What is asked for.
const (
	controlMemory = 128 << 20
	controlTasks  = 32
)

func promises(o Options) []promise {
	all := []promise{
		{name: "cpu quota 25 %", run: quota(0.25)}, {name: "cpu quota 50 %", run: quota(0.5)},
		{name: "cpu weight 1 to 3", run: weights(100, 300)},
		{name: "cpu promise 20 % beside busy neighbours", run: deadline(20*time.Millisecond, 100*time.Millisecond)},
		{name: "memory limit", run: memoryLimit}, {name: "process limit", run: taskLimit},
	}
	all = append(append(all, rates(o)...), promise{name: "p99 alone", run: victim("")})
	for _, kind := range probe.Storms {
		all = append(all, promise{name: "p99 beside " + kind, run: victim(kind)})
	}
	if len(o.Controls) > 0 {
		all = slices.DeleteFunc(all, func(p promise) bool {
			return !slices.ContainsFunc(o.Controls, func(word string) bool { return strings.Contains(p.name, word) })
		})
	}
	return all
}

// isHost tells the target whose processes are the host's own.
func isHost(w World) bool { return w.Name() == "host" }

// controls tries every limit on every target, block by block.
func controls(ctx context.Context, o Options, r *result.Result) error {
	all := promises(o)
	n, done := o.ControlBlocks*len(all)*len(o.Worlds), 0
	for block := range o.ControlBlocks {
		before := readPressure()
		for _, p := range all {
			for _, w := range o.Worlds {
				if p.owns && isHost(w) {
					done++
					continue
				}
				o.Progress(done, n, "resource control, "+p.name+": "+w.Name(), 0)
				c := result.Control{Test: p.name, Target: w.Name(), Block: block + 1}
				err := p.run(ctx, w, o, &c)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil {
					c.Error = err.Error()
				}
				r.Controls = append(r.Controls, c)
				done++
			}
		}
		r.Machine = append(r.Machine, before.until(readPressure(), "iso", block+1))
		if err := o.Save(); err != nil {
			return err
		}
	}
	return nil
}

// near says that a share has to be within 10 %: the windows begin and end
// somewhere in the kernel's periods of 100 ms.
func near(c *result.Control, unit string, asked float64) {
	c.Unit, c.Asked, c.Least, c.Most = unit, asked, 0.9*asked, 1.1*asked
}

// worker is an instance that waits for the word.
func worker(ctx context.Context, w World, j Job) (*session, error) {
	s, err := open(ctx, w, j)
	if err != nil {
		return nil, err
	}
	if err := s.ready(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// limited is a program of ours within limits.
func limited(res workload.Resources, argv ...string) Job {
	return Job{Argv: append([]string{Program}, argv...), Res: res}
}

// share lets a worker work, and returns the share of one processor that it was
// charged for, by the host's clock.
func share(ctx context.Context, s *session) (float64, error) {
	before, err := s.usage(ctx)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := s.goOn(); err != nil {
		return 0, err
	}
	var w probe.Work
	if err := s.read(&w); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	after, err := s.usage(ctx)
	return float64(after.CPUNs-before.CPUNs) / float64(took.Nanoseconds()), err
}

func quota(asked float64) func(context.Context, World, Options, *result.Control) error {
	return func(ctx context.Context, w World, o Options, c *result.Control) error {
		near(c, "processors", asked)
		s, err := worker(ctx, w, limited(workload.Resources{CPUs: asked}, "spin", o.ControlTime.String()))
		if err != nil {
			return err
		}
		c.Measured, err = share(ctx, s)
		return errors.Join(err, s.close())
	}
}

// weights lets two instances want the same processor.
func weights(low, high uint64) func(context.Context, World, Options, *result.Control) error {
	return func(ctx context.Context, w World, o Options, c *result.Control) (err error) {
		near(c, "to 1", float64(high)/float64(low))
		var both [2]*session
		var before [2]Usage
		for i, weight := range []uint64{low, high} {
			if both[i], err = worker(ctx, w, limited(workload.Resources{CPUWeight: weight}, "spin", o.ControlTime.String())); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, both[i].close()) }()
		}
		for i, s := range both {
			if before[i], err = s.usage(ctx); err != nil {
				return err
			}
		}
		for _, s := range both {
			if err := s.goOn(); err != nil {
				return err
			}
		}
		var work probe.Work
		if err := both[0].read(&work); err != nil { // it was told first, and so ends first
			return err
		}
		var spent [2]float64
		for i, s := range both {
			after, err := s.usage(ctx)
			if err != nil {
				return err
			}
			spent[i] = float64(after.CPUNs - before[i].CPUNs)
		}
		c.Measured = spent[1] / spent[0]
		return nil
	}
}

// deadline has one instance with a promise beside neighbours without, one for
// each processor. The kernel makes no such promise to a process that is kept off
// some processors, so that the benchmark's pin is taken off meanwhile.
func deadline(runtime, period time.Duration) func(context.Context, World, Options, *result.Control) error {
	return func(ctx context.Context, w World, o Options, c *result.Control) (err error) {
		c.Unit, c.Asked = "processors", float64(runtime)/float64(period)
		c.Least, c.Most = 0.95*c.Asked, 1 // a floor
		if err := o.Pin(false); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, o.Pin(true)) }()
		for range min(goruntime.NumCPU(), 4) {
			s, err := worker(ctx, w, limited(workload.Resources{}, "spin", (4*o.ControlTime).String()))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			if err := s.goOn(); err != nil {
				return err
			}
		}
		s, err := worker(ctx, w, limited(workload.Resources{Deadline: &workload.Deadline{Runtime: runtime, Deadline: period, Period: period}}, "spin", o.ControlTime.String()))
		if err != nil {
			return err
		}
		c.Measured, err = share(ctx, s)
		return errors.Join(err, s.close())
	}
}

// memoryLimit has a program eat more than there is. In a VM the kernel inside
// has its part of what was asked for.
func memoryLimit(ctx context.Context, w World, _ Options, c *result.Control) error {
	c.Unit, c.Asked = "B", controlMemory
	c.Least, c.Most = 0.5*controlMemory, controlMemory
	s, err := worker(ctx, w, limited(workload.Resources{MemoryBytes: controlMemory}, "eat", fmt.Sprint(4*controlMemory>>20)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.goOn(); err != nil {
		return err
	}
	for {
		var e probe.Work
		if err := s.read(&e); err != nil {
			if !errors.Is(err, io.EOF) {
				return err
			}
			break
		}
		c.Measured = float64(e.Ops) * (1 << 20)
		if e.Reason != "" || e.Ops == 4*controlMemory>>20 {
			c.How = strings.TrimSpace(e.Reason + " and nobody ended it")
			break
		}
	}
	exit, err := s.end()
	if c.How == "" {
		c.How = fmt.Sprintf("ended with %d", exit.Code)
	}
	if exit.OOM {
		c.How += ", for lack of memory"
	}
	return err
}

// taskLimit has a program fork until it may not. Its own threads count.
func taskLimit(ctx context.Context, w World, _ Options, c *result.Control) error {
	c.Unit, c.Asked = "processes", controlTasks
	c.Least, c.Most = controlTasks/2, controlTasks
	s, err := worker(ctx, w, limited(workload.Resources{PIDs: controlTasks}, "crowd", fmt.Sprint(4*controlTasks)))
	if err != nil {
		return err
	}
	var work probe.Work
	if err = s.goOn(); err == nil {
		err = s.read(&work)
	}
	c.Measured, c.How = float64(work.Ops), work.Reason
	return errors.Join(err, s.close())
}

// victim measures how late a small operation every 2 ms is, alone or beside a
// neighbour of the same kind of instance on the same processor.
func victim(neighbour string) func(context.Context, World, Options, *result.Control) error {
	return func(ctx context.Context, w World, o Options, c *result.Control) (err error) {
		c.Unit = "ns"
		s, err := worker(ctx, w, limited(workload.Resources{}, "latency", o.ControlTime.String()))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		if neighbour != "" {
			n, nerr := worker(ctx, w, limited(workload.Resources{}, "storm", neighbour, (4*o.ControlTime).String()))
			if nerr != nil {
				return nerr
			}
			defer func() { err = errors.Join(err, n.close()) }()
			if err := n.goOn(); err != nil {
				return err
			}
		}
		if err := s.goOn(); err != nil {
			return err
		}
		var work probe.Work
		if err := s.read(&work); err != nil {
			return err
		}
		c.Measured = work.P99Ns
		c.How = fmt.Sprintf("median %v, worst %v, of %d", time.Duration(work.P50Ns), time.Duration(work.MaxNs), work.Ops)
		return nil
	}
}
