package main

import (
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

// atEnds reads --watchdog and --on-panic.
func atEnds(c *cli.Context, cfg *workload.Config) error {
	var errs []error
	for flag, to := range map[string]*string{"watchdog": &cfg.VM.Watchdog, "on-panic": &cfg.VM.OnPanic} {
		if !c.IsSet(flag) {
			continue
		}
		*to = c.String(flag)
		if err := oneOf(*to, workload.AtEndExit, workload.AtEndDump, workload.AtEndPause); err != nil {
			errs = append(errs, fmt.Errorf("--%s %q: %w", flag, *to, err))
		}
		if *to == workload.AtEndDump && cfg.AutoRemove {
			errs = append(errs, fmt.Errorf("--%s dump: --rm would remove what it leaves", flag))
		}
	}
	if cfg.VM.Watchdog != "" && c.String("gdb") != "" {
		errs = append(errs, errors.New("--watchdog and --gdb: the watchdog would fire while gdb holds the guest"))
	}
	return errors.Join(errs...)
}
