package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/hvctl/hvctl/memory"
)

const (
	// MaxRuns bounds the runs of a PAGES frame.
	MaxRuns = 64
	// MaxDataPages bounds the pages whose bytes are in one PAGES frame: 256 KiB
	// stay in the processors' caches while they are copied and summed.
	MaxDataPages = 64
	// StripePages is the number of pages that go over one stream together: 2 MiB.
	StripePages = 512

	runSize   = 2 + 8 + 2
	zeroFlag  = 1 << 15
	denseFlag = 1 << 14
)

// Run is a number of neighbouring pages of one region, inside one stripe.
type Run struct {
	Region uint16
	Count  uint16 // 1 to StripePages
	Zero   bool   // the pages are all zero: their bytes are not in the frame
	Dense  bool   // nearly all pages of the stripe come, none came before (version 2)
	Page   uint64 // the first, counted from the region's begin
}

// AppendRuns appends the table of a PAGES payload; the bytes of the runs that
// are not zero follow it, in order.
func AppendRuns(b []byte, runs []Run) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, uint16(len(runs)))
	for _, r := range runs {
		n := r.Count
		if r.Zero {
			n |= zeroFlag
		}
		if r.Dense {
			n |= denseFlag
		}
		b = le.AppendUint16(b, r.Region)
		b = le.AppendUint64(b, r.Page)
		b = le.AppendUint16(b, n)
	}
	return b
}

// TableSize returns the length of the table of n runs, in bytes.
func TableSize(n int) int { return 2 + n*runSize }

// DecodePages takes a PAGES payload apart. pages are the sizes of the regions
// in pages; every run is inside its region and inside one stripe, and data has
// just the bytes of the runs that are not zero. runs are appended to the slice
// given. Errors wrap ErrCorrupt.
func DecodePages(payload []byte, pages []uint64, runs []Run) ([]Run, []byte, error) {
	c := NewCursor(payload)
	n := int(c.Uint16("number of runs"))
	if c.Err() == nil && (n == 0 || n > MaxRuns) {
		c.Fail("PAGES with %d runs, want 1 to %d", n, MaxRuns)
	}
	data := 0
	for range n {
		r := Run{Region: c.Uint16("region"), Page: c.Uint64("page"), Count: c.Uint16("count")}
		if c.Err() != nil {
			break
		}
		r.Zero, r.Dense, r.Count = r.Count&zeroFlag != 0, r.Count&denseFlag != 0, r.Count&^(zeroFlag|denseFlag)
		switch {
		case int(r.Region) >= len(pages):
			c.Fail("a run of region %d, there are %d", r.Region, len(pages))
		case r.Count == 0 || uint64(r.Count) > StripePages-r.Page%StripePages:
			c.Fail("a run of %d pages at %d leaves its stripe", r.Count, r.Page)
		case r.Page >= pages[r.Region] || uint64(r.Count) > pages[r.Region]-r.Page:
			c.Fail("a run of %d pages at %d leaves region %d of %d pages", r.Count, r.Page, r.Region, pages[r.Region])
		}
		if !r.Zero {
			data += int(r.Count)
		}
		runs = append(runs, r)
	}
	if c.Err() == nil && c.Len() != data*memory.PageSize {
		c.Fail("%d bytes of %d pages", c.Len(), data)
	}
	if c.Err() != nil {
		return nil, nil, fmt.Errorf("PAGES: %w", c.Err())
	}
	return runs, c.Bytes(c.Len(), "data"), nil
}
