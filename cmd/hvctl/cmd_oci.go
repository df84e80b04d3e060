package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/hvctl/hvctl/internal/microvm/prepare"
	"github.com/hvctl/hvctl/internal/ocivm"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
)

// cmdOCI is hvctl-oci-vm's question: it is started many times and stays small,
// while choosing a kernel and building an initramfs takes what we link.
func (p *program) cmdOCI() *cli.Command {
	return &cli.Command{
		Name:      "oci-config",
		Usage:     "prepare the VM of an OCI bundle (for hvctl-oci-vm)",
		ArgsUsage: "ID <config.json",
		Hidden:    true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: ocivm.FlagPod, Usage: "it is a sandbox, which is to hold its pod's VM"},
			&cli.BoolFlag{Name: ocivm.FlagMember, Usage: "it is a container of a pod that has a VM"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef(c, "want one ID")
			}
			b, err := p.backend(c, "vm")
			if err != nil {
				return err
			}
			vm, ok := b.(*prepare.Backend)
			if !ok {
				return errors.New("this build's vm backend runs no bundles")
			}
			spec := new(specs.Spec)
			if err := json.NewDecoder(io.LimitReader(p.stdin, ocivm.MaxConfig)).Decode(spec); err != nil {
				return fmt.Errorf("config.json: %w", err)
			}
			var cfg any
			switch id := c.Args().First(); {
			case c.Bool(ocivm.FlagPod):
				cfg, err = vm.Pod(c.Context, id, spec)
			case c.Bool(ocivm.FlagMember):
				cfg, err = vm.Member(spec)
			default:
				cfg, err = vm.OCI(c.Context, id, spec)
			}
			if err != nil {
				return err
			}
			return json.NewEncoder(p.stdout).Encode(cfg)
		},
	}
}
