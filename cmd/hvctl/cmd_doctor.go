package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/doctor"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdDoctor() *cli.Command {
	return &cli.Command{
		Name:        "doctor",
		Usage:       "tell what this host can do, what is missing, and how to fix it",
		Description: "The exit status is 1 when VMs cannot run, else 0.",
		Flags:       []cli.Flag{jsonFlag(), &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print only what is not ok"}},
		Action: func(c *cli.Context) error {
			store, err := storeDir(c)
			if err != nil {
				return err
			}
			root, err := filepath.Abs(rootDir(c))
			if err != nil {
				return err
			}
			o := doctor.Options{UID: os.Geteuid(), Root: root, Store: store, Helpers: map[string]error{}, DefaultKernel: func() (string, error) {
				s, err := p.kernels(c)
				if err != nil {
					return "", err
				}
				k, err := s.Default()
				if err != nil {
					return "", err
				}
				return fmt.Sprintf("%s, version %s", k.Name, k.Version), nil
			}}
			for _, name := range []string{"hvctl-vmm", "hvinit", "hvctl-ctr", "hvctl-net"} {
				_, o.Helpers[name] = findHelper(name)
			}
			checks := doctor.Run(o)
			if c.Bool("json") {
				err = p.printJSON(map[string]any{"usable": doctor.Usable(checks), "containers": doctor.ContainersUsable(checks), "checks": checks})
			} else {
				err = p.printChecks(checks, c.Bool("quiet"))
			}
			if err == nil && !doctor.Usable(checks) {
				err = exitStatus(1)
			}
			return err
		},
	}
}

func (p *program) printChecks(checks []doctor.Check, quiet bool) error {
	n := map[doctor.Status]int{}
	for _, c := range checks {
		n[c.Status]++
		if quiet && c.Status == doctor.OK {
			continue
		}
		fmt.Fprintf(p.stdout, "%-4s  %-12s %s\n", strings.ToUpper(string(c.Status)), c.Name, printable(c.Detail))
		if c.Status != doctor.OK {
			fmt.Fprintf(p.stdout, "      %-12s why: %s\n      %-12s fix: %s\n", "", c.Why, "", c.Fix)
		}
	}
	verdict := "VMs can run here"
	if n[doctor.Fail] > 0 {
		verdict = "VMs cannot run here"
	}
	if doctor.ContainersUsable(checks) {
		verdict += ", containers can"
	} else {
		verdict += ", containers cannot"
	}
	_, err := fmt.Fprintf(p.stdout, "%s: %d ok, %d warnings, %d failures\n", verdict, n[doctor.OK], n[doctor.Warn], n[doctor.Fail])
	return err
}
