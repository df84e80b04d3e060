package snapshots

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

// ErrNeeded means that a snapshot is the base of others.
var ErrNeeded = errors.New("other snapshots hold only what differs from it")

// Bases returns the names of the snapshots below s, its base first; none for one
// that is whole.
func (s *Store) Bases(of *Snapshot) (names []string, err error) {
	id, diff := of.Base()
	if !diff {
		return nil, nil
	}
	all, err := s.heads()
	if err != nil {
		return nil, err
	}
	for diff {
		below, ok := all[id]
		if !ok || len(names) > len(all) {
			return nil, fmt.Errorf("%w: %s holds only what differs from %v, which is not here", ErrNotFound, of.Name, id)
		}
		names = append(names, below.name)
		id, diff = below.base, below.diff
	}
	return names, nil
}

// Files returns the files of snapshots.
func (s *Store) Files(names []string) (files []string) {
	for _, n := range names {
		files = append(files, s.File(n))
	}
	return files
}

// head is what a file says of itself.
type head struct {
	name string
	base snapshot.Ref
	diff bool
}

// heads opens every snapshot; one that is damaged is not there.
func (s *Store) heads() (map[snapshot.Ref]head, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	all := map[snapshot.Ref]head{}
	for _, n := range names {
		f, err := snapshot.Open(s.File(n))
		if err != nil {
			continue
		}
		h := head{name: n}
		h.base, h.diff = f.Base()
		all[f.ID()] = h
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Over returns the names of the snapshots whose base name is.
func (s *Store) Over(name string) (names []string, err error) {
	f, err := snapshot.Open(s.File(name))
	if err != nil { // a damaged one is nobody's base any more
		return nil, nil //nolint:nilerr // see above
	}
	id := f.ID()
	if err := f.Close(); err != nil {
		return nil, err
	}
	all, err := s.heads()
	for _, h := range all {
		if h.diff && h.base == id {
			names = append(names, h.name)
		}
	}
	return names, err
}

// Chain opens a snapshot with those below it.
func (s *Store) Chain(of *Snapshot) (*snapshot.Chain, error) {
	names, err := s.Bases(of)
	if err != nil {
		return nil, err
	}
	rest := s.Files(names)
	return snapshot.OpenChain(s.File(of.Name), func(snapshot.Ref) (string, error) {
		if len(rest) == 0 {
			return "", fs.ErrNotExist
		}
		next := rest[0]
		rest = rest[1:]
		return next, nil
	})
}

// Merge fills p with a whole snapshot that is what of and those below it are
// together. Its disks are those of of.
func (p *Pending) Merge(ctx context.Context, of *Snapshot) (r snapshot.Report, err error) {
	chain, err := p.s.Chain(of)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, chain.Close()) }()
	if r, err = snapshot.Merge(ctx, chain, filepath.Join(p.dir, workload.SnapshotFile), snapshot.Options{}); err != nil {
		return r, err
	}
	for _, d := range of.Description.Disks {
		if d.Name == "" {
			continue
		}
		name := filepath.Base(d.Name)
		// Nobody writes to a snapshot's disks: one file is enough.
		if err := os.Link(filepath.Join(p.s.path(of.Name), name), filepath.Join(p.dir, name)); err != nil {
			return r, err
		}
	}
	return r, nil
}
