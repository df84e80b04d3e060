package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func (p *program) cmdPrune() *cli.Command {
	return &cli.Command{
		Name:        "prune",
		Usage:       "delete what no image needs from the image store",
		Description: "Images with a reference stay; leftovers of interrupted pulls go.",
		Flags:       []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			store, err := p.images(c)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			freed, err := store.Prune(ctx)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return p.printJSON(map[string]any{"blobs": freed.Blobs, "rootfs": freed.Derived, "bytes": freed.Bytes})
			}
			fmt.Fprintf(p.stdout, "freed %s: %d blobs, %d root file system images\n", bytesText(uint64(max(freed.Bytes, 0))), freed.Blobs, freed.Derived)
			return nil
		},
	}
}
