package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/cgroup"
)

func cmdEvents(a *app) (func([]string) (int, error), flagSet) {
	interval, once := 5*time.Second, false
	var s flagSet
	s.onOff(&once, "stats", "", "print the usage once")
	s.add(flag{name: "interval", help: "time between two reports of the usage (5s)", set: func(v string) error {
		d, err := time.ParseDuration(v)
		if err == nil && d <= 0 {
			err = errors.New("it must be positive")
		}
		interval = d
		return err
	}})
	return func(args []string) (int, error) {
		r, err := a.runtime()
		if err != nil {
			return 1, err
		}
		id := args[0]
		st, err := r.Stats(id)
		if err != nil {
			return 1, err
		}
		if once {
			return 0, a.printJSON(event{"stats", id, statsJSON(&st)}, false)
		}
		return 0, a.follow(r, id, interval)
	}, s
}

// event is one line; type is "stats" or "oom".
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

// follow prints events until the container has ended.
func (a *app) follow(r *container.Runtime, id string, interval time.Duration) error {
	var mu sync.Mutex
	say := func(e event) error {
		mu.Lock()
		defer mu.Unlock()
		return a.printJSON(e, false)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		err := r.WatchOOM(ctx, id, func(uint64) { _ = say(event{Type: "oom", ID: id}) })
		if err != nil && ctx.Err() == nil {
			a.log.Warn("running out of memory is not reported", "err", err)
		}
	}()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for range tick.C {
		st, err := r.Stats(id)
		if errors.Is(err, container.ErrNotRunning) || errors.Is(err, container.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = say(event{"stats", id, statsJSON(&st)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// The keys below are runc's.
type (
	object map[string]any
	entry  struct {
		Major uint64 `json:"major"`
		Minor uint64 `json:"minor"`
		Op    string `json:"op"`
		Value uint64 `json:"value"`
	}
)

func statsJSON(s *cgroup.Stats) object {
	ns := func(d time.Duration) int64 { return d.Nanoseconds() }
	perCPU := make([]int64, 0, len(s.CPU.PerCPU))
	for _, d := range s.CPU.PerCPU {
		perCPU = append(perCPU, ns(d))
	}
	usage := object{"total": ns(s.CPU.Usage), "kernel": ns(s.CPU.System), "user": ns(s.CPU.User)}
	if len(perCPU) > 0 {
		usage["percpu"] = perCPU
	}
	huge := object{}
	for size, h := range s.HugeTLB {
		huge[size] = object{"usage": h.Usage, "max": h.Peak, "failcnt": h.LimitHits}
	}
	out := object{
		"cpu": object{
			"usage":      usage,
			"throttling": object{"periods": s.CPU.Periods, "throttledPeriods": s.CPU.Throttled, "throttledTime": ns(s.CPU.ThrottledTime)},
		},
		"memory": object{
			"cache": s.Memory.Stat["cache"] + s.Memory.Stat["file"],
			"usage": object{"usage": s.Memory.Usage, "max": s.Memory.Peak, "limit": s.Memory.Limit, "failcnt": s.Memory.LimitHits},
			"swap":  object{"usage": s.Memory.SwapUsage, "limit": s.Memory.SwapLimit, "failcnt": 0},
			"raw":   s.Memory.Stat,
		},
		"pids":    object{"current": s.PIDs.Current, "limit": s.PIDs.Limit},
		"blkio":   blockJSON(s.IO),
		"hugetlb": huge,
	}
	for name, p := range map[string]*cgroup.PSI{"cpu": s.Pressure.CPU, "memory": s.Pressure.Memory, "blkio": s.Pressure.IO} {
		if p != nil {
			out[name].(object)["psi"] = object{"some": psiJSON(p.Some), "full": psiJSON(p.Full)}
		}
	}
	return out
}

func psiJSON(l cgroup.PSILine) object {
	return object{"avg10": l.Avg10, "avg60": l.Avg60, "avg300": l.Avg300, "total": l.Total.Microseconds()}
}

func blockJSON(list []cgroup.IOStats) object {
	bytes, ops := []entry{}, []entry{}
	for _, d := range list {
		bytes = append(bytes, entry{d.Major, d.Minor, "Read", d.ReadBytes}, entry{d.Major, d.Minor, "Write", d.WriteBytes}, entry{d.Major, d.Minor, "Discard", d.DiscardBytes})
		ops = append(ops, entry{d.Major, d.Minor, "Read", d.ReadOps}, entry{d.Major, d.Minor, "Write", d.WriteOps}, entry{d.Major, d.Minor, "Discard", d.DiscardOperations})
	}
	return object{"ioServiceBytesRecursive": bytes, "ioServicedRecursive": ops}
}
