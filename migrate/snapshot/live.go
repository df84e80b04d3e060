package snapshot

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/migrate/sparse"
	"github.com/hvctl/hvctl/migrate/wire"
)

// Live is a machine that runs while Write copies its RAM for the first time. Its
// log of changed pages has been started before Write is called.
type Live struct {
	// Stop ends the first pass: it stops the machine and returns, per region, the
	// bitmap of the pages that have changed since the log was started, and the
	// state. It is called once, unless Write fails before.
	Stop func() (dirty [][]uint64, sections []state.Section, err error)
	// Copied says that RAM is no longer needed: what is left is to make the file
	// durable. It is called once after Stop, unless Write fails before.
	Copied func()
}

// live is the second pass: what changed during the first one is done again, while
// the machine stands still. A page that was torn by a write of the guest is among
// it.
func (w *writer) live(ctx context.Context, l *Live, ram *ramSource, workers int) error {
	dirty, sections, err := l.Stop()
	if err != nil {
		return err
	}
	if err := checkDirty(w.x.regions, dirty); err != nil {
		return err
	}
	w.x.sections = sections
	err = eachStripe(ctx, w.x.regions, workers, func(region int, n uint64, _ []byte) error {
		if changed := of(dirty[region], n); changed != 0 {
			return w.again(ram, region, n, changed)
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.Copied()
	return nil
}

// again writes the changed pages of one chunk, and its checksum anew. Pages that
// have become zero become holes, and in a diff are noted as such.
func (w *writer) again(ram *ramSource, region int, n uint64, changed pages) error {
	b := ram.ram[region].Bytes
	data := b[n*chunkSize : min((n+1)*chunkSize, uint64(len(b)))]
	t, off := &w.x.tables[region], w.x.regions[region].Offset+n*chunkSize
	before := of(t.stored, n)
	var keep, zero pages
	t.crc[n] = 0
	for i := range chunkPages {
		if (before|changed)>>i&1 == 0 {
			continue
		}
		page := data[i*pageSize : (i+1)*pageSize]
		if changed>>i&1 != 0 && sparse.IsZero(page) {
			zero |= 1 << i
			continue
		}
		keep |= 1 << i
		t.crc[n] = wire.CRC(t.crc[n], page)
	}
	for from, to := range (keep & changed).runs {
		if _, err := w.f.WriteAt(data[from*pageSize:to*pageSize], int64(off)+int64(from)*pageSize); err != nil {
			return err
		}
	}
	for from, to := range (before &^ keep).runs {
		err := unix.Fallocate(int(w.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off)+int64(from)*pageSize, int64(to-from)*pageSize)
		if err != nil {
			return fmt.Errorf("punch a hole: %w", err)
		}
	}
	w.stored.Add(count(keep) - count(before)) // wraps to a subtraction
	put(t.stored, n, keep)
	if w.diff {
		put(t.zero, n, of(t.zero, n)&^changed|zero)
	}
	return nil
}
