package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/start"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdBenchStart() *cli.Command {
	return &cli.Command{
		Name:  "start",
		Usage: "time how OCI runtimes start containers",
		Description: "Prints the medians of create, start, wait and delete, of run, and of exec of /bin/true\n" +
			"from a bundle with busybox. Needs root. crun refuses hybrid cgroups.",
		Flags: resultFlags(
			&cli.StringFlag{Name: "runtimes", Usage: "measure these programs: `LIST`", DefaultText: "hvctl-oci beside hvctl; crun and runc if they are there"},
			&cli.IntFlag{Name: "iterations", Aliases: []string{"n"}, Value: 50, Usage: "do everything `NUMBER` times"},
			&cli.StringFlag{Name: "busybox", Usage: "the static busybox `FILE`", DefaultText: "from PATH"},
		),
		Action: p.benchStart,
	}
}

func (p *program) benchStart(c *cli.Context) error {
	if n := c.Int("iterations"); n < 1 {
		return usagef(c, "--iterations %d: want at least 1", n)
	}
	runtimes := strings.FieldsFunc(c.String("runtimes"), func(r rune) bool { return r == ',' })
	if len(runtimes) == 0 {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		runtimes = append(runtimes, filepath.Join(filepath.Dir(self), "hvctl-oci"))
		for _, peer := range []string{"crun", "runc"} {
			if _, err := exec.LookPath(peer); err == nil {
				runtimes = append(runtimes, peer)
			}
		}
	}
	ctx, stop := interruptible(c)
	defer stop()
	r := start.Result{Header: header(c)}
	err := start.Measure(ctx, start.Options{
		Runtimes: runtimes, Busybox: c.String("busybox"), Iterations: c.Int("iterations"),
		Progress: func(done, all int) { fmt.Fprintf(p.stderr, "%d of %d\n", done+1, all) },
	}, &r)
	return p.keep(c, &r, len(r.Samples), err)
}
