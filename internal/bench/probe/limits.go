package probe

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Work is what a part of the resource control chapter did.
type Work struct {
	Ops    int     `json:"ops"` // loops of Spin, MiB of Eat, processes of Crowd
	Ns     int64   `json:"ns"`  // how long it took, by the instance's clock
	P50Ns  float64 `json:"p50Ns,omitempty"`
	P99Ns  float64 `json:"p99Ns,omitempty"`
	MaxNs  float64 `json:"maxNs,omitempty"`
	Reason string  `json:"reason,omitempty"` // why it stopped early
}

// Spin computes for so long.
func Spin(d time.Duration) (w Work) {
	begin := time.Now()
	for time.Since(begin) < d {
		spinOnce()
		w.Ops++
	}
	w.Ns = time.Since(begin).Nanoseconds()
	return w
}

// spinOnce is some microseconds of work.
func spinOnce() {
	x := sum | 1
	for range 4000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	sum += x
}

// Eat touches memory, a MiB at a time, and tells each.
func Eat(mib int, tell func(Work) error) error {
	for i := range mib {
		mem, err := anonymous(1<<20, unix.MADV_NOHUGEPAGE)
		if err != nil {
			return tell(Work{Ops: i, Reason: err.Error()})
		}
		touch(mem)
		if err := tell(Work{Ops: i + 1}); err != nil {
			return err
		}
	}
	return nil
}

// Crowd forks until it may not, at most n times, and ends them all.
func Crowd(n int) (w Work) {
	var there [2]int
	if err := unix.Pipe2(there[:], unix.O_CLOEXEC); err != nil {
		return Work{Reason: err.Error()}
	}
	var pids []int
	buf := make([]byte, 1)
	for range n {
		pid, e := rawFork()
		if e == 0 && pid == 0 {
			closeRaw(there[1])
			_, _ = rawRead(there[0], buf) // until the parent closes its end
			rawExit(0)
		}
		if e != 0 {
			w.Reason = e.Error()
			break
		}
		pids = append(pids, pid)
	}
	_ = unix.Close(there[1])
	var errs []error
	for _, pid := range pids {
		errs = append(errs, reap(pid))
	}
	if err := errors.Join(errs...); err != nil && w.Reason == "" {
		w.Reason = err.Error()
	}
	w.Ops = len(pids)
	return w
}

// Latency does a small operation every 2 ms, by a fixed schedule: one that is
// late is late for everybody who waits, so its time counts from when it was due.
func Latency(d time.Duration) (w Work) {
	const every = 2 * time.Millisecond
	var took []float64
	begin := time.Now()
	for due := begin; due.Sub(begin) < d; due = due.Add(every) {
		time.Sleep(time.Until(due))
		spinOnce()
		took = append(took, float64(time.Since(due).Nanoseconds()))
	}
	w.Ns, w.Ops = time.Since(begin).Nanoseconds(), len(took)
	slices.Sort(took)
	if n := len(took); n > 0 {
		w.P50Ns, w.P99Ns, w.MaxNs = took[n/2], took[(n*99-1)/100], took[n-1]
	}
	return w
}
