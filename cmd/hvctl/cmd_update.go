package main

import (
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdUpdate() *cli.Command {
	return &cli.Command{
		Name:        "update",
		Usage:       "change limits, disks and links of running instances",
		ArgsUsage:   "INSTANCE...",
		Description: "A VM can be held to less than the processors it booted with, and weighed anew; with --max-memory\nits memory grows and shrinks, and the command waits for the guest to take it or give it back;\na container's limits can all be changed, and what either does with block devices of the host.\nA disk of a VM goes by its serial number, disk0 and so on if it was given none; size=auto\ntakes the size that its file has by now. The link of a VM, or of a container on the bridge,\nis up again in a copy and after a migration or upgrade.",
		Flags: append([]cli.Flag{
			&cli.Float64Flag{Name: "cpus", Usage: "`NUMBER` of processors' worth of time"},
			&cli.IntFlag{Name: "vcpus", Usage: "plug processors in or out until a VM that was started with --max-cpus has `NUMBER`, and time for as many"},
			&cli.Uint64Flag{Name: "cpu-weight", Usage: "share of processor time against others, `WEIGHT` 1 to 10000"},
			&cli.StringFlag{Name: "memory", Aliases: []string{"m"}, Usage: "memory: `SIZE` such as 512M; of a VM that was started with --max-memory, not less than it booted with"},
			&cli.Int64Flag{Name: "pids-limit", Usage: "at most `NUMBER` of processes"},
			&cli.StringFlag{Name: "balloon", Usage: "take `SIZE` of its memory from a VM that was started with --balloon; 0 gives all back"},
			&cli.StringFlag{Name: "link", Usage: "plug the network cable in or pull it: `up|down`"},
			&cli.StringFlag{Name: "disk", Usage: "a disk, `SERIAL[,size=SIZE|auto][,iops=N][,bps=SIZE]` (VMs); it can grow, not shrink"},
		}, throttleFlags("; 0 lifts it")...),
		BashComplete: p.completeInstances(workload.Running, workload.Paused),
		Action: func(c *cli.Context) error {
			u, err := updateOf(c)
			if err != nil {
				return usagef(c, "%w", err)
			}
			return p.each(func(c *cli.Context, h *launch.Handle) error {
				if err := h.Update(c.Context, u); err != nil {
					return named(h, err)
				}
				return nil
			})(c)
		},
	}
}

// updateOf reads the flags that were given.
func updateOf(c *cli.Context) (workload.Update, error) {
	var u workload.Update
	if c.IsSet("cpus") {
		u.CPUs = new(c.Float64("cpus"))
	}
	if c.IsSet("vcpus") {
		u.VCPUs = new(c.Int("vcpus"))
	}
	if c.IsSet("cpu-weight") {
		u.CPUWeight = new(c.Uint64("cpu-weight"))
	}
	if c.IsSet("pids-limit") {
		u.PIDs = new(c.Int64("pids-limit"))
	}
	if c.IsSet("memory") {
		n, err := parseSize(c.String("memory"))
		if err != nil {
			return u, err
		}
		u.MemoryBytes = &n
	}
	if c.IsSet("balloon") {
		n, err := parseSize(c.String("balloon"))
		if err != nil {
			return u, err
		}
		u.BalloonBytes = &n
	}
	var err error
	if u.BlockIO, err = throttles(c, true); err != nil {
		return u, err
	}
	if c.IsSet("disk") {
		d, err := parseDiskUpdate(c.String("disk"))
		if err != nil {
			return u, err
		}
		u.Disk = &d
	}
	if c.IsSet("link") {
		u.Link = new(workload.LinkState(c.String("link")))
	}
	return u, u.Check()
}
