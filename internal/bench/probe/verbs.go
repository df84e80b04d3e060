package probe

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Survived is Die's exit status when the signal did nothing, as it does to the
// first process of a PID namespace (pid_namespaces(7)).
const Survived = 99

// Die ends this process by a signal, as one that knows nothing of signals. It
// returns only when that fails.
func Die(n int) error {
	if err := defaultAction(unix.Signal(n)); err != nil {
		return err
	}
	if err := unix.Kill(os.Getpid(), unix.Signal(n)); err != nil {
		return os.NewSyscallError("kill", err)
	}
	// What was sent to oneself, and is not blocked, arrives before kill returns
	// to some thread of the process; this gives another thread its time.
	time.Sleep(100 * time.Millisecond)
	return nil
}

// Say writes so many bytes that do not repeat, the same each time.
func Say(w io.Writer, n int) error {
	b := bufio.NewWriter(w)
	for x := uint64(88172645463325252); n > 0; n-- {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		if err := b.WriteByte(byte(x >> 32)); err != nil {
			return err
		}
	}
	return b.Flush()
}

// Tick is one line of Beat's.
type Tick struct {
	N     int   `json:"n"`
	GapNs int64 `json:"gapNs"` // the longest time between two beats so far
}

// beatEvery is the time between two beats.
const beatEvery = 2 * time.Millisecond

// Beat counts, and tells about 100 times a second how far it is, until it is
// told otherwise. A program that was moved goes on counting.
func Beat(w io.Writer, quit <-chan struct{}) error {
	out := json.NewEncoder(w)
	var t Tick
	for last := time.Now(); ; {
		select {
		case <-quit:
			return out.Encode(t)
		case <-time.After(beatEvery):
		}
		now := time.Now()
		t.N, t.GapNs, last = t.N+1, max(t.GapNs, now.Sub(last).Nanoseconds()), now
		if t.N%5 == 1 {
			if err := out.Encode(t); err != nil {
				return err
			}
		}
	}
}

// Storms are the ways to be a bad neighbour.
var Storms = []string{"cpu", "memory", "fork", "sync"}

// Storm is a bad neighbour for so long.
func Storm(kind, dir string, d time.Duration) (w Work, err error) {
	var once func() error
	switch kind {
	case "cpu":
		once = func() error { spinOnce(); return nil }
	case "memory":
		from, to := make([]byte, 16<<20), make([]byte, 16<<20)
		once = func() error { copy(to, from); from, to = to, from; return nil }
	case "fork":
		once = func() error {
			pid, e := rawFork()
			if e != 0 {
				return os.NewSyscallError("clone", e)
			}
			if pid == 0 {
				rawExit(0)
			}
			return reap(pid)
		}
	case "sync":
		f, err := os.Create(filepath.Join(dir, "storm"))
		if err != nil {
			return w, err
		}
		defer f.Close()
		buf := make([]byte, 64<<10)
		once = func() error {
			_, err := f.WriteAt(buf, int64(w.Ops%64)*int64(len(buf)))
			return errors.Join(err, f.Sync())
		}
	default:
		return w, fmt.Errorf("storm %q: there are %v", kind, Storms)
	}
	begin := time.Now()
	for time.Since(begin) < d {
		if err := once(); err != nil {
			return w, err
		}
		w.Ops++
	}
	w.Ns = time.Since(begin).Nanoseconds()
	return w, nil
}
