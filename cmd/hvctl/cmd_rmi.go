package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"
)

func (p *program) cmdRmi() *cli.Command {
	return &cli.Command{
		Name:         "rmi",
		Usage:        "remove images",
		ArgsUsage:    "IMAGE...",
		Flags:        []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "even those that instances use"}},
		BashComplete: p.completeImages,
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usagef(c, "no image given")
			}
			store, err := p.images(c)
			if err != nil {
				return err
			}
			var errs []error
			for _, ref := range c.Args().Slice() {
				if _, err := store.Remove(c.Context, ref, c.Bool("force")); err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintln(p.stdout, ref)
			}
			return errors.Join(errs...)
		},
	}
}
