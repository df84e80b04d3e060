package snapshot

import (
	"bytes"
	"context"
	"fmt"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/sparse"
)

// Differ returns, per region, the pages of ram that are not what the chain has:
// the Dirty of a diff over it, found by looking at both, without a log that would
// have had to run since. The base is checked on the way. Holes of memoryFD (-1
// for none) count as zeroes and are not touched. While the machine runs, its log of
// changed pages must be on: a page that changes meanwhile is in either.
func Differ(ctx context.Context, c *Chain, ram []memory.Region, memoryFD int, o Options) ([][]uint64, error) {
	regions := c.Top().x.regions
	if !sameRAM(regions, ram) {
		return nil, fmt.Errorf("%w: %s is of a machine with other RAM", ErrChain, c.Top().f.Name())
	}
	data, err := wantedOf(Content{Regions: ram, MemoryFD: memoryFD})
	if err != nil {
		return nil, err
	}
	differ := make([][]uint64, len(ram))
	for i := range ram {
		differ[i] = make([]uint64, len(data[i]))
	}
	err = eachStripe(ctx, regions, o.workers(), func(region int, n uint64, buf []byte) error {
		clear(buf)
		if _, err := c.readChunk(region, n, buf); err != nil {
			return err
		}
		b := ram[region].Bytes
		now, there := b[n*chunkSize:min((n+1)*chunkSize, uint64(len(b)))], of(data[region], n)
		var found pages
		for i := range len(now) / pageSize {
			was := buf[i*pageSize : (i+1)*pageSize]
			if there>>i&1 == 0 && sparse.IsZero(was) || there>>i&1 != 0 && bytes.Equal(was, now[i*pageSize:(i+1)*pageSize]) {
				continue
			}
			found |= 1 << i
		}
		set(differ[region], n, found)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compare with %s: %w", c.Top().f.Name(), err)
	}
	return differ, nil
}
