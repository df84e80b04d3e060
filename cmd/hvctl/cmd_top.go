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
		Name:         "top",
		Usage:        "list the processes of a running instance",
		ArgsUsage:    "INSTANCE",
		Description:  "Process IDs are those that the processes themselves see, whatever the backend.\nOf a VM with very many processes the first 512 are listed.",
		Flags:        []cli.Flag{jsonFlag()},
		BashComplete: p.completeInstances(workload.Running),
		Action: p.one(func(c *cli.Context, h *launch.Handle) error {
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
		}),
	}
}
