package main

import (
	"fmt"
	"time"

	"github.com/hvctl/hvctl/images"
	"github.com/urfave/cli/v2"
)

// imageInfo is one line of images.
type imageInfo struct {
	Ref     string    `json:"ref"`
	Digest  string    `json:"digest"`
	Created time.Time `json:"created,omitzero"`
	Size    int64     `json:"size"` // bytes, as stored
}

func imageLine(im *images.Image) imageInfo {
	return imageInfo{Ref: im.Ref, Digest: im.Digest.String(), Created: im.Created, Size: im.Size}
}

func (p *program) cmdImages() *cli.Command {
	return &cli.Command{
		Name:  "images",
		Usage: "list images",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print references only"},
			&cli.BoolFlag{Name: "digests", Usage: "print whole digests"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			store, err := p.images(c)
			if err != nil {
				return err
			}
			ims, damaged := store.List(c.Context)
			all := []imageInfo{}
			for _, im := range ims {
				all = append(all, imageLine(im))
			}
			switch {
			case c.Bool("json"):
				err = p.printJSON(all)
			case c.Bool("quiet"):
				for _, im := range all {
					fmt.Fprintln(p.stdout, images.FamiliarReference(im.Ref))
				}
			default:
				err = p.printImages(all, c.Bool("digests"))
			}
			if err != nil {
				return err
			}
			return damaged
		},
	}
}

func (p *program) printImages(all []imageInfo, whole bool) error {
	t := newTable(p.stdout, "IMAGE", "DIGEST", "CREATED", "SIZE")
	for _, im := range all {
		d := im.Digest
		if !whole && len(d) > 19 {
			d = d[7:19]
		}
		created := "unknown"
		if !im.Created.IsZero() {
			created = ago(time.Since(im.Created)) + " ago"
		}
		t.row(images.FamiliarReference(im.Ref), d, created, bytesText(uint64(max(im.Size, 0))))
	}
	return t.flush()
}
