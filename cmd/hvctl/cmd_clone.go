package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/snapshots"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdClone() *cli.Command {
	return &cli.Command{
		Name:      "clone",
		Usage:     "start copies of a running VM, each with an identity of its own",
		ArgsUsage: "INSTANCE",
		Description: "The same as snapshot create and restore, with no snapshot left. Copies share the\n" +
			"memory that none of them changes. Of the original's published ports they get\n" +
			"those whose host port was left open, each with one of its own.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "count", Aliases: []string{"n"}, Value: 1, Usage: "make `NUMBER` of copies"},
			&cli.StringFlag{Name: "name", Usage: "call the copies `NAME`-1, NAME-2 ...", DefaultText: "the original's name"},
			&cli.BoolFlag{Name: "rm", Usage: "remove a copy when it ends"},
			jsonFlag(),
		},
		BashComplete: p.completeInstances(workload.Running, workload.Paused),
		Action:       p.one(p.clone),
	}
}

// maxClones bounds what a slip of the finger can start.
const maxClones = 1000

// cloned is one copy that runs.
type cloned struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	IP   string `json:"ip,omitempty"`
	// StartedNs is the time from asking for the copy to its taking up its
	// identity; PrivateBytes is memory that no other process has.
	StartedNs    int64  `json:"startedNs"`
	PrivateBytes uint64 `json:"privateBytes"`
}

func (p *program) clone(c *cli.Context, h *launch.Handle) error {
	n, prefix := c.Int("count"), c.String("name")
	if n < 1 || n > maxClones {
		return usagef(c, "--count %d: want 1 to %d", n, maxClones)
	}
	if prefix == "" {
		prefix = h.Name()
	}
	if err := instance.CheckName(fmt.Sprintf("%s-%d", prefix, n)); err != nil {
		return &usageError{err: err, command: c.Command.HelpName}
	}
	store, err := p.snapshots(c)
	if err != nil {
		return err
	}
	out, err := outDir(h)
	if err != nil {
		return err
	}
	pending, err := store.Create("clone", true, out) // never given that name
	if err != nil {
		return err
	}
	defer pending.Abort() // who maps the file keeps it
	if err := h.Lend(pending.Dir()); err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	if _, err := h.Client.Snapshot(ctx, pending.Dir(), nil); err != nil {
		return named(h, err)
	}
	s, err := pending.Open()
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // it was only read
	all := []cloned{}
	for i := range n {
		var one cloned
		if one, err = p.cloneOne(ctx, c, h.Backend, s, fmt.Sprintf("%s-%d", prefix, i+1)); err != nil {
			break // what runs is told
		}
		all = append(all, one)
		if !c.Bool("json") {
			fmt.Fprintln(p.stdout, one.ID)
		}
	}
	if c.Bool("json") {
		if jerr := p.printJSON(all); jerr != nil {
			return jerr
		}
	}
	return err
}

func (p *program) cloneOne(ctx context.Context, c *cli.Context, b workload.Backend, s *snapshots.Snapshot, name string) (cloned, error) {
	began := time.Now()
	d, err := workload.ParseDescription(s.Snapshot.Description()) // a configuration for this one alone
	if err != nil {
		return cloned{}, err
	}
	cfg, err := p.copyConfig(c, s, d.Config)
	if err != nil {
		return cloned{}, err
	}
	cfg.Name = name
	cfg.Net.Publish = slices.DeleteFunc(cfg.Net.Publish, func(port workload.Port) bool { return port.HostPort != 0 })
	h, run, err := p.launchConfig(ctx, c, b, cfg, launch.Options{})
	if err != nil {
		return cloned{}, err
	}
	one := cloned{ID: h.ID(), Name: name, StartedNs: time.Since(began).Nanoseconds(), PrivateBytes: privateBytes(run.PID())}
	if st, err := h.Instance.State(); err == nil {
		one.IP = st.IP
	}
	return one, nil
}

// privateBytes is memory that only one process has; 0 when that is not known.
func privateBytes(pid int) (n uint64) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib uint64
		if strings.HasPrefix(s.Text(), "Private_") {
			if f := strings.Fields(s.Text()); len(f) == 3 {
				_, _ = fmt.Sscan(f[1], &kib)
				n += kib << 10
			}
		}
	}
	return n
}
