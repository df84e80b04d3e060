package main

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func maxCPUsFlag(of string) cli.Flag {
	return &cli.IntFlag{Name: "max-cpus", Usage: of + "processors that hvctl update --vcpus may give the guest: `NUMBER`", DefaultText: "those of --cpus"}
}

// maxCPUs reads --max-cpus. The backend judges it beside --cpus.
func maxCPUs(c *cli.Context, cfg *workload.Config) error {
	cfg.VM.MaxCPUs = c.Int("max-cpus")
	if c.IsSet("max-cpus") && (cfg.VM.MaxCPUs < 1 || cfg.VM.MaxCPUs > 4096) {
		return fmt.Errorf("--max-cpus %d: want a number above 0", cfg.VM.MaxCPUs)
	}
	return nil
}
