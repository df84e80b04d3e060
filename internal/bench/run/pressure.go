package run

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/bench/result"
)

// pressure is what the host's kernel has counted so far.
type pressure struct {
	at              time.Time
	stealNs         int64
	cpu, memory, io int64 // µs that somebody waited; -1: not known
}

func readPressure() pressure {
	p := pressure{at: time.Now(), cpu: stalled("cpu"), memory: stalled("memory"), io: stalled("io")}
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		// cpu user nice system idle iowait irq softirq steal, in ticks that are
		// always a hundredth of a second to programs (proc(5), USER_HZ)
		if f := strings.Fields(string(b)); len(f) > 8 && f[0] == "cpu" {
			var ticks int64
			if _, err := fmt.Sscan(f[8], &ticks); err == nil {
				p.stealNs = ticks * int64(10*time.Millisecond)
			}
		}
	}
	return p
}

// stalled is the total of a resource's first line
// (Documentation/accounting/psi.rst): some avg10=0.00 ... total=N.
func stalled(resource string) int64 {
	b, err := os.ReadFile("/proc/pressure/" + resource)
	if err != nil {
		return -1
	}
	line, _, _ := strings.Cut(string(b), "\n")
	_, total, ok := strings.Cut(line, "total=")
	var us int64
	if _, err := fmt.Sscan(total, &us); !ok || err != nil {
		return -1
	}
	return us
}

// until is what happened from p to q.
func (p pressure) until(q pressure, chapter string, block int) result.Pressure {
	took := q.at.Sub(p.at)
	share := func(a, b int64) float64 {
		if a < 0 || b < 0 || took <= 0 {
			return -1
		}
		return float64(b-a) * float64(time.Microsecond) / float64(took)
	}
	r := result.Pressure{
		Chapter: chapter, Block: block, TookNs: took.Nanoseconds(), StealNs: q.stealNs - p.stealNs,
		CPU: share(p.cpu, q.cpu), Memory: share(p.memory, q.memory), IO: share(p.io, q.io),
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(b), &r.Load)
	}
	return r
}
