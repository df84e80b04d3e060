// Command hvdirty is the guest of `hvctl bench migrate`: PID 1 of a Linux that
// has nothing else. It fills memory, then writes to some of it at a steady
// rate, and keeps a page by which it is seen to live
// (internal/bench/migrate/beat). It never ends.
//
//	hvdirty fill=MIB set=MIB rate=BYTES
//
// fill MiB get random bytes once; after that rate bytes a second of another set
// MiB are written, whole pages of new random bytes, in turn from the first to
// the last.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/bench/migrate/beat"
)

// tick is the time between two signs of life.
const tick = 2 * time.Millisecond

// late is how long a tick may be late before what was not written meanwhile is
// forgotten: a guest that stood still does not catch up.
const late = 20 * time.Millisecond

func main() {
	debug.SetGCPercent(-1)
	fmt.Println("hvdirty:", run(os.Args[1:]))
	select {} // the end of PID 1 is a kernel panic
}

func run(args []string) error {
	given := map[string]uint64{}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return fmt.Errorf("argument %q: want NAME=NUMBER", a)
		}
		given[k] = n
	}
	page, err := pages(beat.Size)
	if err != nil {
		return err
	}
	fill, err := pages(int(given["fill"]) << 20)
	if err != nil {
		return err
	}
	set, err := pages(int(given["set"]) << 20)
	if err != nil {
		return err
	}
	r := random(0x9e3779b97f4a7c15)
	r.write(fill)
	r.write(set)
	dirty(page, set, given["rate"], &r)
	return nil
}

// pages returns memory that begins at a page, and is the kernel's smallest pages.
func pages(n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("%d bytes: %w", n, err)
	}
	return b, unix.Madvise(b, unix.MADV_NOHUGEPAGE)
}

// dirty writes to set for ever.
func dirty(page, set []byte, rate uint64, r *random) {
	b := beat.Beat{Ready: 1}
	last := time.Now()
	var owed time.Duration // for which nothing was written yet
	at := 0
	for {
		b.Count++
		b.Put(page)
		ts := unix.NsecToTimespec(int64(tick))
		_ = unix.Nanosleep(&ts, nil) // a signal makes one tick short
		now := time.Now()
		gap := now.Sub(last)
		last = now
		b.Gap = max(b.Gap, uint64(gap))
		owed += min(gap, late)
		for rate > 0 && len(set) > 0 {
			one := time.Duration(beat.Size * uint64(time.Second) / rate)
			if owed < one {
				break
			}
			owed -= one
			r.write(set[at : at+beat.Size])
			at = (at + beat.Size) % len(set)
			b.Written += beat.Size
		}
	}
}

// random is xorshift64: bytes that cannot be compressed, at little cost.
type random uint64

func (r *random) write(p []byte) {
	x := uint64(*r)
	for len(p) >= 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p[0], p[1], p[2], p[3] = byte(x), byte(x>>8), byte(x>>16), byte(x>>24)
		p[4], p[5], p[6], p[7] = byte(x>>32), byte(x>>40), byte(x>>48), byte(x>>56)
		p = p[8:]
	}
	*r = random(x)
}
