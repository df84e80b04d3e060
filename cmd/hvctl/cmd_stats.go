package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

// sampled is one instance's line of stats.
type sampled struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Backend    string         `json:"backend"`
	CPUPercent float64        `json:"cpuPercent"` // of one processor, since the sample before
	Stats      workload.Stats `json:"stats"`

	image string
	last  workload.Stats // the sample before; its zero value: there is none
}

func (p *program) cmdStats() *cli.Command {
	return &cli.Command{
		Name:      "stats",
		Usage:     "show what running instances use",
		ArgsUsage: "[INSTANCE...]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "no-stream", Usage: "print once"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "`TIME` between two samples"},
			jsonFlag(),
		},
		BashComplete: p.completeInstances(workload.Running, workload.Paused),
		Action: func(c *cli.Context) error {
			return p.sampling(c, func(now []sampled) (bool, error) {
				err := p.printStats(now, c.Bool("json"), !c.Bool("no-stream") && p.screen())
				return c.Bool("no-stream") || len(now) == 0 && c.NArg() > 0, err
			})
		},
	}
}

// sampling calls show with what was sampled, each --interval, until show says that
// this is the end, fails, or the user interrupts.
func (p *program) sampling(c *cli.Context, show func([]sampled) (end bool, err error)) error {
	every := c.Duration("interval")
	if every < 10*time.Millisecond {
		return usagef(c, "--interval %v: want at least 10ms", every)
	}
	ctx, stop := interruptible(c)
	defer stop()
	before := map[string]workload.Stats{}
	if _, err := p.sample(ctx, c, before); err != nil {
		return err
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now, err := p.sample(ctx, c, before)
		if err != nil {
			return err
		}
		if end, err := show(now); end || err != nil {
			return err
		}
	}
}

// sample asks every instance at once. before has the last samples by ID, and
// gets these.
func (p *program) sample(ctx context.Context, c *cli.Context, before map[string]workload.Stats) ([]sampled, error) {
	hs, err := p.selected(c, len(before) > 0)
	if err != nil {
		return nil, err
	}
	actx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	stats, errs := make([]workload.Stats, len(hs)), make([]error, len(hs))
	var wg sync.WaitGroup
	for n, h := range hs {
		wg.Go(func() { stats[n], errs[n] = h.Stats(actx) })
	}
	wg.Wait()
	out := []sampled{}
	for n, h := range hs {
		if errs[n] != nil {
			if c.NArg() > 0 && !errors.Is(errs[n], workload.ErrNotRunning) {
				return nil, named(h, errs[n])
			}
			continue
		}
		s := sampled{ID: h.ID(), Name: h.Name(), Backend: h.Config().Backend, Stats: stats[n], image: h.Config().Image.Ref}
		s.last = before[s.ID]
		if b, ok := before[s.ID]; ok && s.Stats.At.After(b.At) && s.Stats.CPUNanoseconds >= b.CPUNanoseconds {
			s.CPUPercent = 100 * float64(s.Stats.CPUNanoseconds-b.CPUNanoseconds) / float64(s.Stats.At.Sub(b.At))
		}
		before[s.ID] = s.Stats
		out = append(out, s)
	}
	return out, nil
}

// selected is the instances named, or all that run. Later on, those that have gone are
// left out.
func (p *program) selected(c *cli.Context, later bool) ([]*launch.Handle, error) {
	var out []*launch.Handle
	if c.NArg() > 0 {
		for _, ref := range c.Args().Slice() {
			h, err := p.handle(c, ref)
			if errors.Is(err, instance.ErrNotFound) && later {
				continue
			}
			if err != nil {
				return nil, err
			}
			out = append(out, h)
		}
		return out, nil
	}
	all, err := p.list(c)
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if l.State.PID == 0 {
			continue
		}
		if h, err := p.handle(c, l.ID); err == nil {
			out = append(out, h)
		}
	}
	return out, nil
}

func (p *program) printStats(all []sampled, asJSON, wipe bool) error {
	if asJSON {
		return p.printJSON(all)
	}
	if wipe {
		fmt.Fprint(p.stdout, "\x1b[H\x1b[J")
	}
	t := newTable(p.stdout, "ID", "NAME", "CPU", "MEMORY", "LIMIT", "PIDS", "NET IN/OUT", "DISK READ/WRITTEN")
	for _, s := range all {
		st, limit := s.Stats, "none"
		if st.MemoryLimitBytes > 0 {
			limit = bytesText(st.MemoryLimitBytes)
		}
		t.row(s.ID[:12], s.Name, fmt.Sprintf("%.1f %%", s.CPUPercent), bytesText(st.MemoryBytes), limit, fmt.Sprint(st.PIDs),
			bytesText(st.NetRxBytes)+" / "+bytesText(st.NetTxBytes), bytesText(st.BlockReadBytes)+" / "+bytesText(st.BlockWriteBytes))
	}
	return t.flush()
}
