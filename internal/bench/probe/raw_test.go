package probe

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a probe does is the kernel's work alone: Go's runtime, which looks after
// calls that it knows of every 20 µs, sleeps.
func TestRuntimeKeepsOut(t *testing.T) {
	for _, p := range All() {
		switch p.Name {
		case "seq-write", "seq-read", "rand-write", "file-meta":
		default:
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			b, err := p.open(inMemory(t))
			if err != nil {
				t.Fatal(err)
			}
			defer b.close()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			before, begin, done := voluntary(t), time.Now(), 0
			for time.Since(begin) < 200*time.Millisecond {
				if _, _, err := b.run(100); err != nil {
					t.Fatal(err)
				}
				done += 100
			}
			if n := voluntary(t) - before; n > 200 {
				t.Errorf("threads slept and woke %d times in %v, %d operations", n, time.Since(begin), done)
			} else {
				t.Logf("%d times in %v, %d operations", n, time.Since(begin), done)
			}
		})
	}
}

// inMemory is a directory without a disk, which would be waited for.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "probe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// voluntary is how often threads of this process have waited for something.
func voluntary(t *testing.T) int64 {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return ru.Nvcsw
}
