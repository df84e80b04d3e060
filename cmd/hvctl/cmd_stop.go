package main

import (
	"errors"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdStop() *cli.Command {
	return &cli.Command{
		Name:      "stop",
		Usage:     "end instances gently, then with force",
		ArgsUsage: "INSTANCE...",
		Description: "The first process gets its stop signal; after the timeout the backend's gentlest\n" +
			"way follows (a VM's power button), and then the end.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "time", Aliases: []string{"t", "timeout"}, Usage: "wait `SECONDS` after the signal; negative: for ever", DefaultText: "the instance's"},
			&cli.StringFlag{Name: "signal", Aliases: []string{"s"}, Usage: "send `SIGNAL` first", DefaultText: "the instance's"},
		},
		BashComplete: p.completeInstances(workload.Running, workload.Paused),
		Action: p.each(func(c *cli.Context, h *launch.Handle) error {
			r := control.StopRequest{Signal: c.String("signal")}
			if r.Signal != "" {
				if _, err := workload.ParseSignal(r.Signal); err != nil {
					return err
				}
			}
			if c.IsSet("time") {
				t := c.Int("time")
				r.TimeoutSeconds = &t
			}
			_, err := h.Stop(c.Context, r)
			if errors.Is(err, workload.ErrNotRunning) || errors.Is(err, control.ErrGone) {
				// Stopping what has ended is no error; what never ran is.
				st, serr := h.Instance.State()
				if serr != nil || st.Status == workload.Exited || st.Status == workload.Dead {
					return nil
				}
			}
			if err != nil {
				return named(h, err)
			}
			return nil
		}),
	}
}
