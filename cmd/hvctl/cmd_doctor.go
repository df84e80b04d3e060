package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/doctor"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdDoctor() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "tell what this host can do, what is missing, and how to fix it",
		Description: "The exit status is 1 when VMs cannot run, else 0.\n" +
			"With --self it tells how the process of a running VM is confined, and what is left open and why.",
		Flags: []cli.Flag{
			jsonFlag(), &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print only what is not ok"},
			&cli.StringFlag{Name: "self", Usage: "look at the process of the running VM `INSTANCE` in place of the host"},
		},
		Action: func(c *cli.Context) error {
			if c.IsSet("self") {
				return p.doctorSelf(c)
			}
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
	n := p.printEach(checks, quiet)
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

// printEach prints the checks and counts how they came out.
func (p *program) printEach(checks []doctor.Check, quiet bool) map[doctor.Status]int {
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
	return n
}

// doctorSelf looks at the process of a VM.
func (p *program) doctorSelf(c *cli.Context) error {
	h, err := p.handle(c, c.String("self"))
	if err != nil {
		return err
	}
	if b := h.Config().Backend; b != "vm" {
		return usagef(c, "%s is a %s, whose owner is not confined", h.Name(), b)
	}
	info, err := h.Client.Info(c.Context)
	if err != nil {
		return named(h, err)
	}
	var said struct {
		Confinement *doctor.Confinement `json:"confinement"`
	}
	b, err := json.Marshal(info.Inspect)
	if err == nil {
		err = json.Unmarshal(b, &said)
	}
	if err != nil {
		return fmt.Errorf("what %s says of itself: %w", h.Name(), err)
	}
	checks, err := doctor.Self("/", info.State.PID, said.Confinement)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(checks)
	}
	n := p.printEach(checks, c.Bool("quiet"))
	_, err = fmt.Fprintf(p.stdout, "%s, process %d: %d ok, %d warnings\n", h.Name(), info.State.PID, n[doctor.OK], n[doctor.Warn])
	return err
}
