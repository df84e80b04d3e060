package main

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func maxMemoryFlag(of string) cli.Flag {
	return &cli.StringFlag{Name: "max-memory", Usage: of + "memory that hvctl update --memory may give the guest: `SIZE`", DefaultText: "that of --memory"}
}

// maxMemory reads --max-memory. The backend judges it beside --memory.
func maxMemory(c *cli.Context, cfg *workload.Config) error {
	if !c.IsSet("max-memory") {
		return nil
	}
	n, err := parseSize(c.String("max-memory"))
	if err == nil && n == 0 {
		err = fmt.Errorf("--max-memory %s: want more than nothing", c.String("max-memory"))
	}
	cfg.VM.MaxMemoryBytes = n
	return err
}
