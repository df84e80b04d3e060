package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/snapshots"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/snapshot"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdSnapshot() *cli.Command {
	return &cli.Command{
		Name:  "snapshot",
		Usage: "write running VMs down, to be restored later or more than once",
		Subcommands: []*cli.Command{
			p.cmdSnapshotCreate(), p.cmdSnapshotLs(), p.cmdSnapshotMerge(), p.cmdSnapshotInspect(), p.cmdSnapshotVerify(), p.cmdSnapshotRm(),
		},
	}
}

func (p *program) cmdSnapshotCreate() *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "write memory, processors, devices and disks of a running VM down",
		ArgsUsage: "INSTANCE",
		Description: "Most of its memory is copied while it runs; then it stands still for a moment. What it\n" +
			"has written to its root file system is in its memory; its writable disks are copied.\n" +
			"With --diff only the memory that differs from an earlier snapshot is stored; that one\n" +
			"is needed to restore it, and compared with page by page while the VM runs.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "tag", Aliases: []string{"t"}, Usage: "call the snapshot `NAME`", DefaultText: "the instance's name"},
			&cli.BoolFlag{Name: "replace", Usage: "replace a snapshot of the same name"},
			&cli.BoolFlag{Name: "diff", Usage: "store what differs from the latest snapshot of the same instance"},
			&cli.StringFlag{Name: "base", Usage: "store what differs from `SNAPSHOT`"},
			jsonFlag(),
		},
		BashComplete: p.completeInstances(workload.Running, workload.Paused),
		Action:       p.one(p.snapshotCreate),
	}
}

func (p *program) snapshotCreate(c *cli.Context, h *launch.Handle) error {
	s, err := p.snapshots(c)
	if err != nil {
		return err
	}
	name := c.String("tag")
	if name == "" {
		name = h.Name()
	}
	out, err := outDir(h)
	if err != nil {
		return err
	}
	made, err := s.Create(name, c.Bool("replace"), out)
	if err != nil {
		return err
	}
	defer made.Abort()
	if err := h.Lend(made.Dir()); err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	bases, err := diffBases(c, s, h)
	if err != nil {
		return err
	}
	if slices.Contains(bases, name) {
		return usagef(c, "the new snapshot cannot replace %q, which it needs: choose another --tag", name)
	}
	files := s.Files(bases)
	open, done, err := openAll(h, files)
	if err != nil {
		return err
	}
	defer done()
	if h.Apart() {
		files = nil
	}
	inside, done, err := within(h, files)
	if err != nil {
		return err
	}
	defer done()
	report, err := h.Client.Snapshot(ctx, made.Dir(), inside, open...)
	if err != nil {
		return named(h, err)
	}
	if err := made.Commit(); err != nil {
		return err
	}
	if err := h.TakeBack(filepath.Dir(s.File(name))); err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(struct {
			Name string `json:"name"`
			workload.SnapshotReport
		}{name, report})
	}
	fmt.Fprintf(p.stdout, "%s: %s of memory, %s of state", name, bytesText(report.MemoryBytes), bytesText(report.StateBytes))
	if report.DiskBytes > 0 {
		fmt.Fprintf(p.stdout, ", %s of disks", bytesText(report.DiskBytes))
	}
	fmt.Fprintf(p.stdout, "; it stood still for %v\n", time.Duration(report.PausedNs).Round(time.Millisecond))
	return nil
}

// snapshotInfo is one line of snapshot ls, and what inspect prints.
type snapshotInfo struct {
	Name        string               `json:"name"`
	Created     time.Time            `json:"created"`
	Instance    string               `json:"instance"` // of which it was taken
	Image       string               `json:"image"`
	Base        string               `json:"base,omitempty"` // identity of the snapshot that it holds the differences from
	RAMBytes    uint64               `json:"ramBytes"`       // of the VM
	StoredBytes uint64               `json:"storedBytes"`    // the rest of it is zeroes
	File        string               `json:"file"`
	Error       string               `json:"error,omitempty"` // why nothing else is known
	Format      uint32               `json:"format,omitempty"`
	ID          string               `json:"id,omitempty"`
	Sections    []sectionInfo        `json:"sections,omitempty"`
	Description workload.Description `json:"description,omitzero"`
}

// sectionInfo is one part of a VM's state.
type sectionInfo struct {
	Path    string `json:"path"`
	Version uint32 `json:"version"`
	Bytes   int    `json:"bytes"`
}

func infoOf(s *snapshots.Snapshot) snapshotInfo {
	cfg := s.Description.Config
	i := snapshotInfo{
		Name: s.Name, Created: s.Description.Created, Instance: cfg.Name, Image: cfg.Image.Ref,
		File: s.File().Name(), Format: s.Version(), ID: s.ID().String(),
	}
	if id, diff := s.Base(); diff {
		i.Base = id.String()
	}
	for _, r := range s.Regions() {
		i.RAMBytes += r.Size
	}
	stored, _ := s.Pages()
	i.StoredBytes = stored * 4096
	return i
}

func (p *program) cmdSnapshotLs() *cli.Command {
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list snapshots",
		Flags:   []cli.Flag{&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print names only"}, jsonFlag()},
		Action: func(c *cli.Context) error {
			s, err := p.snapshots(c)
			if err != nil {
				return err
			}
			names, err := s.Names()
			if err != nil {
				return err
			}
			all := []snapshotInfo{}
			for _, n := range names {
				if c.Bool("quiet") {
					fmt.Fprintln(p.stdout, n)
					continue
				}
				snap, err := s.Get(n)
				if err != nil { // one that is damaged is listed, to be removed
					all = append(all, snapshotInfo{Name: n, File: s.File(n), Error: err.Error()})
					continue
				}
				i := infoOf(snap)
				_ = snap.Close() // it was only read
				i.Format, i.ID = 0, ""
				all = append(all, i)
			}
			switch {
			case c.Bool("quiet"):
				return nil
			case c.Bool("json"):
				return p.printJSON(all)
			}
			t := newTable(p.stdout, "SNAPSHOT", "OF", "IMAGE", "CREATED", "MEMORY", "STORED")
			for _, i := range all {
				if i.Error != "" {
					t.row(i.Name, "", "", "damaged", "", "")
					continue
				}
				t.row(i.Name, i.Instance, i.Image, ago(time.Since(i.Created))+" ago", bytesText(i.RAMBytes), bytesText(i.StoredBytes))
			}
			return t.flush()
		},
	}
}

func (p *program) cmdSnapshotInspect() *cli.Command {
	return &cli.Command{
		Name:         "inspect",
		Usage:        "print what a snapshot says of itself, as JSON",
		ArgsUsage:    "SNAPSHOT",
		BashComplete: p.completeSnapshots,
		Action: p.oneSnapshot(func(_ *cli.Context, s *snapshots.Snapshot) error {
			i := infoOf(s)
			i.Description = s.Description
			for _, sec := range s.Sections() {
				i.Sections = append(i.Sections, sectionInfo{sec.Path, sec.Version, len(sec.Payload)})
			}
			return p.printJSON(i)
		}),
	}
}

func (p *program) cmdSnapshotVerify() *cli.Command {
	return &cli.Command{
		Name:         "verify",
		Usage:        "read a snapshot whole, with those below it, and check every checksum",
		ArgsUsage:    "SNAPSHOT",
		BashComplete: p.completeSnapshots,
		Action: p.oneSnapshot(func(c *cli.Context, s *snapshots.Snapshot) error {
			store, err := p.snapshots(c)
			if err != nil {
				return err
			}
			chain, err := store.Chain(s)
			if err != nil {
				return err
			}
			if err := errors.Join(chain.Verify(c.Context, snapshot.Options{}), chain.Close()); err != nil {
				return err
			}
			fmt.Fprintf(p.stdout, "%s: intact\n", s.Name)
			return nil
		}),
	}
}

func (p *program) cmdSnapshotRm() *cli.Command {
	return &cli.Command{
		Name:         "rm",
		Usage:        "remove snapshots; instances restored from them go on",
		ArgsUsage:    "SNAPSHOT...",
		BashComplete: p.completeSnapshots,
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usagef(c, "no snapshot given")
			}
			s, err := p.snapshots(c)
			if err != nil {
				return err
			}
			var errs []error
			for _, n := range c.Args().Slice() {
				if err := s.Remove(n); err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintln(p.stdout, n)
			}
			return errors.Join(errs...)
		},
	}
}

// snapshots opens the store of snapshots.
func (p *program) snapshots(c *cli.Context) (*snapshots.Store, error) {
	dir, err := storeDir(c)
	if err != nil {
		return nil, err
	}
	return snapshots.Open(filepath.Join(dir, "snapshots"))
}

// oneSnapshot runs fn on the snapshot that is the only argument.
func (p *program) oneSnapshot(fn func(c *cli.Context, s *snapshots.Snapshot) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() != 1 {
			return usagef(c, "%d arguments given, want one snapshot", c.NArg())
		}
		store, err := p.snapshots(c)
		if err != nil {
			return err
		}
		s, err := store.Get(c.Args().First())
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }() // it was only read
		return fn(c, s)
	}
}

func (p *program) completeSnapshots(c *cli.Context) {
	s, err := p.snapshots(c)
	if err != nil {
		return
	}
	names, _ := s.Names()
	for _, n := range names {
		fmt.Fprintln(p.stdout, n)
	}
}
