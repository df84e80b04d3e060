package main

import "github.com/urfave/cli/v2"

func (p *program) cmdTag() *cli.Command {
	return &cli.Command{
		Name:         "tag",
		Usage:        "give an image a further reference",
		ArgsUsage:    "IMAGE REF",
		BashComplete: p.completeImages,
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usagef(c, "%d arguments given, want an image and a reference", c.NArg())
			}
			store, err := p.images(c)
			if err != nil {
				return err
			}
			return store.Tag(c.Context, c.Args().Get(0), c.Args().Get(1))
		},
	}
}
