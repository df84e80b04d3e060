package main

import (
	"fmt"
	"time"

	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdTop() *cli.Command {
	return &cli.Command{
		Name:      "top",
		Usage:     "watch all running instances, or list the processes of one",
		ArgsUsage: "[INSTANCE]",
		Description: "Without an instance: how much each uses, the busiest first, renewed until ctrl-c on a\n" +
			"terminal and printed line by line elsewhere. Exits are those of a VM's processors to\n" +
			"the host; of these, the VMM has to serve some.\n" +
			"With an instance: process IDs are those that the processes themselves see, whatever\n" +
			"the backend. Of a VM with very many processes the first 512 are listed.",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "`TIME` between two looks (without an instance)"},
			&cli.BoolFlag{Name: "once", Usage: "look once, and end (without an instance)"},
			&cli.StringFlag{Name: "sort", Value: "cpu", Usage: "order by `WHAT`: cpu, memory, exits, net, disk or name (without an instance)"},
			jsonFlag(),
		},
		BashComplete: p.completeInstances(workload.Running),
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return p.watch(c)
			}
			for _, f := range []string{"interval", "once", "sort"} {
				if c.IsSet(f) {
					return usagef(c, "--%s is for all instances; %s is one", f, c.Args().First())
				}
			}
			return p.one(p.listTasks)(c)
		},
	}
}

func (p *program) listTasks(c *cli.Context, h *launch.Handle) error {
	tasks, err := h.Tasks(c.Context)
	if err != nil {
		return named(h, err)
	}
	if c.Bool("json") {
		return p.printJSON(tasks)
	}
	t := newTable(p.stdout, "PID", "PPID", "UID", "STATE", "THREADS", "MEMORY", "CPU TIME", "STARTED", "COMMAND")
	for _, k := range tasks {
		t.row(fmt.Sprint(k.PID), fmt.Sprint(k.PPID), fmt.Sprint(k.UID), k.State, fmt.Sprint(k.Threads), bytesText(k.MemoryBytes),
			time.Duration(k.CPUNanoseconds).Round(10*time.Millisecond).String(), ago(time.Since(k.Started))+" ago", k.Command)
	}
	return t.flush()
}
