package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdPull() *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Usage:     "fetch an image from its registry",
		ArgsUsage: "IMAGE",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "insecure", Usage: "speak plain HTTP"},
			&cli.StringFlag{Name: "platform", Usage: "the image for `OS/ARCH[/VARIANT]`", DefaultText: "this machine's"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef(c, "%d arguments given, want one image", c.NArg())
			}
			o := images.PullOptions{Insecure: c.Bool("insecure")}
			if s := c.String("platform"); s != "" {
				pl, err := parsePlatform(s)
				if err != nil {
					return err
				}
				o.Platform = pl
			}
			store, err := p.images(c)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			im, err := p.pull(ctx, store, c.Args().First(), o)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return p.printJSON(imageLine(im))
			}
			fmt.Fprintln(p.stdout, im.Digest)
			return nil
		},
	}
}

// pull fetches ref, with progress on a terminal.
func (p *program) pull(ctx context.Context, store *images.Store, ref string, o images.PullOptions) (*images.Image, error) {
	bar := p.newProgress()
	defer bar.close()
	o.Rootfs.Progress = bar.images()
	return store.Pull(ctx, ref, o)
}

func parsePlatform(s string) (ocispec.Platform, error) {
	f := strings.Split(s, "/")
	if len(f) < 2 || len(f) > 3 || slices.Contains(f, "") {
		return ocispec.Platform{}, fmt.Errorf("platform %q: want OS/ARCH[/VARIANT], such as linux/amd64", s)
	}
	return ocispec.Platform{OS: f[0], Architecture: f[1], Variant: strings.Join(f[2:], "")}, nil
}
