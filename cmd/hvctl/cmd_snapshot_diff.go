package main

import (
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/internal/snapshots"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/urfave/cli/v2"
)

// diffBases returns the names of the snapshot that the new one is to differ from,
// and of those below it; none when it is to be whole.
func diffBases(c *cli.Context, s *snapshots.Store, h *launch.Handle) ([]string, error) {
	name := c.String("base")
	if name == "" && c.Bool("diff") {
		var err error
		if name, err = latest(s, h.ID()); err != nil {
			return nil, named(h, err)
		}
	}
	if name == "" {
		return nil, nil
	}
	base, err := s.Get(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = base.Close() }() // it was only read
	below, err := s.Bases(base)
	return append([]string{name}, below...), err
}

// latest returns the newest snapshot of an instance.
func latest(s *snapshots.Store, id string) (string, error) {
	names, err := s.Names()
	if err != nil {
		return "", err
	}
	var newest *snapshots.Snapshot
	for _, n := range names {
		snap, err := s.Get(n)
		if err != nil { // damaged
			continue
		}
		_ = snap.Close() // it was only read
		if snap.Description.Config.ID == id && (newest == nil || snap.Description.Created.After(newest.Description.Created)) {
			newest = snap
		}
	}
	if newest == nil {
		return "", errors.New("it has no snapshot yet that another could differ from; --base names one")
	}
	return newest.Name, nil
}

func (p *program) cmdSnapshotMerge() *cli.Command {
	return &cli.Command{
		Name:      "merge",
		Usage:     "make a whole snapshot of one that holds differences",
		ArgsUsage: "SNAPSHOT",
		Description: "The new one needs no other, and can be mapped by restore. Those it was made of stay;\n" +
			"they can be removed.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "tag", Aliases: []string{"t"}, Required: true, Usage: "call the new snapshot `NAME`"},
			jsonFlag(),
		},
		BashComplete: p.completeSnapshots,
		Action:       p.oneSnapshot(p.snapshotMerge),
	}
}

func (p *program) snapshotMerge(c *cli.Context, of *snapshots.Snapshot) error {
	s, err := p.snapshots(c)
	if err != nil {
		return err
	}
	made, err := s.Create(c.String("tag"), false, "")
	if err != nil {
		return err
	}
	defer made.Abort()
	ctx, stop := interruptible(c)
	defer stop()
	r, err := made.Merge(ctx, of)
	if err != nil {
		return err
	}
	if err := made.Commit(); err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(r)
	}
	fmt.Fprintf(p.stdout, "%s: %s of memory\n", c.String("tag"), bytesText(r.StoredPages*4096))
	return nil
}
