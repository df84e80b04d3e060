package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/hvctl/hvctl/memory"
)

// maxChain bounds the length of a chain.
const maxChain = 64

// Chain is a full snapshot and the diffs over it, up to the one to restore.
type Chain struct {
	layers []*Snapshot // the full one first
}

// OpenChain opens the snapshot at path and, as long as it is a diff, its bases
// at the paths that find gives for their identities. Errors wrap ErrChain or
// are those of Open and find.
func OpenChain(path string, find func(Ref) (path string, err error)) (*Chain, error) {
	top, err := Open(path)
	if err != nil {
		return nil, err
	}
	return chainOf(top, func(r Ref) (*Snapshot, error) {
		p, err := find(r)
		if err != nil {
			return nil, fmt.Errorf("%w: base %v: %w", ErrChain, r, err)
		}
		return Open(p)
	})
}

// OpenFiles is OpenChain for files that are open already, in the order in which each
// is the next one's. They are the chain's, and those that it does not need are closed.
func OpenFiles(files []*os.File) (*Chain, error) {
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	next := func(Ref) (*Snapshot, error) {
		if len(files) == 0 {
			return nil, fmt.Errorf("%w: a base was not given", ErrChain)
		}
		f := files[0]
		files = files[1:]
		return OpenFile(f)
	}
	top, err := next(Ref{})
	if err != nil {
		return nil, err
	}
	return chainOf(top, next)
}

// chainOf is the chain whose top is there.
func chainOf(top *Snapshot, base func(Ref) (*Snapshot, error)) (c *Chain, err error) {
	c = &Chain{layers: []*Snapshot{top}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
			c = nil
		}
	}()
	for lowest := top; lowest.h.diff; {
		if len(c.layers) == maxChain {
			return c, fmt.Errorf("%w: %s has more than %d bases; merge some", ErrChain, top.f.Name(), maxChain-1)
		}
		below, err := base(lowest.h.base)
		if err != nil {
			return c, fmt.Errorf("base of %s: %w", lowest.f.Name(), err)
		}
		c.layers = slices.Insert(c.layers, 0, below)
		if below.h.id != lowest.h.base {
			return c, fmt.Errorf("%w: %s needs the base %v, %s is %v", ErrChain, lowest.f.Name(), lowest.h.base, below.f.Name(), below.h.id)
		}
		if !slices.Equal(below.x.regions, lowest.x.regions) {
			return c, fmt.Errorf("%w: %s and its base %s have different RAM", ErrChain, lowest.f.Name(), below.f.Name())
		}
		lowest = below
	}
	return c, nil
}

// Top returns the snapshot that the chain restores; it stays owned by c.
func (c *Chain) Top() *Snapshot { return c.layers[len(c.layers)-1] }

// Full reports whether the chain is a full snapshot alone, which may be mapped.
func (c *Chain) Full() bool { return len(c.layers) == 1 }

// Close closes all files.
func (c *Chain) Close() (err error) {
	for _, s := range c.layers {
		err = errors.Join(err, s.Close())
	}
	return err
}

// ReadInto copies the memory into ram, which has the files' regions and reads
// as zeroes, and checks the checksums of every layer. After an error ram holds
// anything.
func (c *Chain) ReadInto(ctx context.Context, ram []memory.Region, o Options) error {
	regions := c.Top().x.regions
	if !sameRAM(regions, ram) {
		return fmt.Errorf("%w: %s is of a machine with other RAM", ErrChain, c.Top().f.Name())
	}
	err := eachStripe(ctx, regions, o.workers(), func(region int, n uint64, _ []byte) error {
		b := ram[region].Bytes
		_, err := c.readChunk(region, n, b[n*chunkSize:min((n+1)*chunkSize, uint64(len(b)))])
		return err
	})
	if err != nil {
		return fmt.Errorf("restore %s: %w", c.Top().f.Name(), err)
	}
	return nil
}

// Verify checks every layer.
func (c *Chain) Verify(ctx context.Context, o Options) error {
	for _, s := range c.layers {
		if err := s.Verify(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// readChunk brings dst, the bytes of chunk n, which are zero, up to the newest
// layer, and returns which pages have been written.
func (c *Chain) readChunk(region int, n uint64, dst []byte) (have pages, err error) {
	for _, s := range c.layers {
		if err := s.readChunk(region, n, dst); err != nil {
			return 0, err
		}
		t := s.x.tables[region]
		if t.zero != nil {
			for from, to := range (have & of(t.zero, n)).runs {
				clear(dst[from*pageSize : to*pageSize])
			}
		}
		have |= of(t.stored, n)
	}
	return have, nil
}

// chunk makes a chain the source of a merged file.
func (c *Chain) chunk(region int, n uint64, buf []byte) ([]byte, pages, error) {
	clear(buf)
	have, err := c.readChunk(region, n, buf)
	return buf, have, err
}

// Merge writes the chain as one full snapshot, path, with the description and
// the sections of its top. It has an identity of its own.
func Merge(ctx context.Context, c *Chain, path string, o Options) (Report, error) {
	top := c.Top()
	_, end, err := place(slices.Clone(top.x.regions))
	if err != nil {
		return Report{}, fmt.Errorf("merge %s: %w", path, err)
	}
	x := &index{regions: top.x.regions, description: top.x.description, sections: top.x.sections}
	r, err := write(ctx, path, header{version: Version, indexOff: end}, x, c, nil, o)
	if err != nil {
		return Report{}, fmt.Errorf("merge %s: %w", path, err)
	}
	return r, nil
}
