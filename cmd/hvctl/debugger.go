package main

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/gdbstub"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

// debugger reads --gdb and --gdb-wait.
func debugger(c *cli.Context, cfg *workload.Config) error {
	cfg.VM.GDB, cfg.VM.GDBWait = c.String("gdb"), c.Bool("gdb-wait")
	if cfg.VM.GDB == "" {
		if cfg.VM.GDBWait {
			return errors.New("--gdb-wait: say with --gdb where gdb is to come from")
		}
		return nil
	}
	if path, ok := strings.CutPrefix(cfg.VM.GDB, "unix:"); ok && path != "" {
		abs, err := filepath.Abs(path) // the owner runs elsewhere
		if err != nil {
			return err
		}
		cfg.VM.GDB = "unix:" + abs
	}
	_, err := gdbstub.ParseAddress(cfg.VM.GDB)
	return err
}
