package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdDump() *cli.Command {
	return &cli.Command{
		Name:         "dump",
		Usage:        "write memory and registers of a running VM into an ELF core file",
		ArgsUsage:    "INSTANCE FILE",
		Description:  "For gdb and crash. The VM stands still meanwhile.",
		Flags:        []cli.Flag{jsonFlag()},
		BashComplete: p.completeInstances(workload.Running, workload.Paused),
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usagef(c, "want an instance and a file")
			}
			h, err := p.handle(c, c.Args().First())
			if err != nil {
				return err
			}
			file, err := filepath.Abs(c.Args().Get(1))
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			r, err := dump(ctx, h, file)
			if err != nil {
				return named(h, err)
			}
			if c.Bool("json") {
				return p.printJSON(r)
			}
			_, err = fmt.Fprintf(p.stdout, "%s: %s of memory, %d processors\n", file, bytesText(r.StoredBytes), r.CPUs)
			return err
		},
	}
}

// dump has the owner write where it may, and puts the file where it is wanted.
func dump(ctx context.Context, h *launch.Handle, file string) (r workload.DumpReport, err error) {
	out, err := outDir(h)
	if err != nil {
		return r, err
	}
	if out == "" {
		return h.Client.Dump(ctx, file)
	}
	if _, err := os.Lstat(file); err == nil {
		return r, &os.PathError{Op: "dump", Path: file, Err: os.ErrExist}
	}
	dir, err := os.MkdirTemp(out, "dump-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	if err := h.Lend(dir); err != nil {
		return r, err
	}
	from := filepath.Join(dir, "core")
	if r, err = h.Client.Dump(ctx, from); err != nil {
		return r, err
	}
	if err := moveFile(ctx, file, from); err != nil {
		return r, err
	}
	return r, h.TakeBack(file)
}
