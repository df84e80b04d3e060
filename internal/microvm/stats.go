package microvm

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/metrics"
	"github.com/hvctl/hvctl/internal/workload"
)

// balloonTimeout is how long the guest's kernel may take to tell what it uses its
// memory for; what it told last is shown otherwise.
const balloonTimeout = 100 * time.Millisecond

// insideTimeout is how long the guest's agent may take to count its processes. A guest
// that stands still must not keep the rest from being told.
const insideTimeout = 2 * time.Second

// Stats reports what the VM costs the host, VMM included: CPU time and memory
// of this process, which is the whole instance.
func (v *VM) Stats(ctx context.Context) (workload.Stats, error) {
	g, err := v.running()
	if err != nil {
		return workload.Stats{}, err
	}
	if v.balloon != nil {
		rctx, cancel := context.WithTimeout(ctx, balloonTimeout)
		v.balloon.Refresh(rctx)
		cancel()
	}
	s := workload.Stats{At: time.Now(), MemoryLimitBytes: g.machine.Memory().Now, Counters: g.machine.Counters()}
	for name, n := range g.machine.HostCounters() {
		s.Counters[name] = n
	}
	s.Histograms = histograms(g.machine.Distributions())
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return s, os.NewSyscallError("getrusage", err)
	}
	s.CPUNanoseconds = uint64(ru.Utime.Nano() + ru.Stime.Nano())
	mem, err := residentBytes()
	if err != nil {
		return s, err
	}
	s.MemoryBytes = mem
	ictx, cancel := context.WithTimeout(ctx, insideTimeout)
	defer cancel()
	if g.session == nil || g.machine.Paused() {
		// nobody inside to ask
	} else if in, err := g.session.Stats(ictx); err == nil {
		s.PIDs = in.PIDs
	} else {
		v.log.Debug("guest statistics", "err", err)
	}
	for name, n := range s.Counters {
		switch name[strings.LastIndexByte(name, '.')+1:] {
		case "read_bytes_total":
			s.BlockReadBytes += n
		case "write_bytes_total":
			s.BlockWriteBytes += n
		case "rx_bytes_total":
			s.NetRxBytes += n
		case "tx_bytes_total":
			s.NetTxBytes += n
		}
	}
	return s, nil
}

func histograms(all []metrics.Distribution) map[string]workload.Histogram {
	out := make(map[string]workload.Histogram, len(all))
	for _, d := range all {
		out[d.Name] = workload.Histogram{Counts: d.Counts, SumNanoseconds: d.SumNs}
	}
	return out
}

// residentBytes is this process's resident memory, guest RAM included.
func residentBytes() (uint64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0, fmt.Errorf("/proc/self/statm: %w", err)
	}
	return resident * uint64(os.Getpagesize()), nil
}
