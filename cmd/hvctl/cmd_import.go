package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hvctl/hvctl/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdImport() *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "make an image of a file or directory",
		ArgsUsage: "FILE|DIR REF",
		Description: "Takes an OCI image layout (directory or tar), what `docker save` writes, or a root\n" +
			"file system (directory or tar). Archives may be compressed with gzip, zstd or xz.\n" +
			"The flags from --cmd on give a root file system its default process; other\n" +
			"sources bring their own.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "type", Value: "auto", Usage: "read the source as `KIND` auto, oci, docker or rootfs"},
			&cli.StringFlag{Name: "source-ref", Usage: "take the image called `REF` out of a source that has several"},
			&cli.StringFlag{Name: "platform", Usage: "the image for `OS/ARCH[/VARIANT]`", DefaultText: "this machine's"},
			&cli.StringSliceFlag{Name: "cmd", Usage: "default command, one `WORD` each time"},
			&cli.StringSliceFlag{Name: "entrypoint", Usage: "entrypoint, one `WORD` each time"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set `NAME=VALUE`"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "start in `DIR`"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `NAME|UID[:GROUP|GID]`"},
			&cli.StringSliceFlag{Name: "expose", Usage: "declare the port `PORT[/PROTO]`"},
			&cli.StringSliceFlag{Name: "label", Aliases: []string{"l"}, Usage: "set the label `NAME=VALUE`"},
			&cli.StringFlag{Name: "stop-signal", Usage: "`SIGNAL` that stop sends first"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usagef(c, "%d arguments given, want a source and a reference", c.NArg())
			}
			o, err := importOptions(c)
			if err != nil {
				return err
			}
			store, err := p.images(c)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			bar := p.newProgress()
			defer bar.close()
			o.Rootfs.Progress = bar.images()
			im, err := store.Import(ctx, c.Args().Get(0), c.Args().Get(1), o)
			if err != nil {
				return err
			}
			bar.close()
			if c.Bool("json") {
				return p.printJSON(imageLine(im))
			}
			fmt.Fprintln(p.stdout, im.Digest)
			return nil
		},
	}
}

func importOptions(c *cli.Context) (images.ImportOptions, error) {
	o := images.ImportOptions{Type: images.SourceType(c.String("type")), SourceRef: c.String("source-ref")}
	var errs []error
	switch o.Type {
	case "auto":
		o.Type = images.Auto
	case images.OCI, images.DockerArchive, images.RootTar:
	default:
		errs = append(errs, fmt.Errorf("--type %q: use auto, oci, docker or rootfs", o.Type))
	}
	if s := c.String("platform"); s != "" {
		pl, err := parsePlatform(s)
		errs = append(errs, err)
		o.Platform = pl
	}
	labels, err := parsePairs("label", c.StringSlice("label"))
	errs = append(errs, err)
	for _, kv := range c.StringSlice("env") {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" {
			errs = append(errs, fmt.Errorf("environment variable %q: want NAME=VALUE", kv))
		}
	}
	o.Config = ocispec.ImageConfig{
		Cmd: c.StringSlice("cmd"), Entrypoint: c.StringSlice("entrypoint"), Env: c.StringSlice("env"), WorkingDir: c.String("workdir"),
		User: c.String("user"), Labels: labels, StopSignal: c.String("stop-signal"),
	}
	for _, s := range c.StringSlice("expose") {
		pt, err := parsePort(s)
		errs = append(errs, err)
		if o.Config.ExposedPorts == nil {
			o.Config.ExposedPorts = map[string]struct{}{}
		}
		o.Config.ExposedPorts[fmt.Sprintf("%d/%s", pt.Port, pt.Protocol)] = struct{}{}
	}
	return o, errors.Join(errs...)
}
