package legacy_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/legacy"
	"github.com/hvctl/hvctl/internal/state"
)

func put(w *legacy.Watchdog, off uint64, v uint32) {
	w.WriteAt(off, binary.LittleEndian.AppendUint32(nil, v))
}

func get(w *legacy.Watchdog, off uint64) uint32 {
	var b [4]byte
	w.ReadAt(off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

func watchdog(t *testing.T) (*legacy.Watchdog, chan struct{}) {
	t.Helper()
	fired := make(chan struct{}, 8)
	w := legacy.NewWatchdog(func() { fired <- struct{}{} })
	t.Cleanup(w.Close)
	return w, fired
}

func TestAWatchdogThatIsNotWrittenToFires(t *testing.T) {
	w, fired := watchdog(t)
	put(w, legacy.WatchdogCount, 1)
	if get(w, legacy.WatchdogControl) != 0 || get(w, legacy.WatchdogLeft) != 0 {
		t.Error("it runs before it was started")
	}
	put(w, legacy.WatchdogControl, 1)
	if get(w, legacy.WatchdogControl) != 1 || get(w, legacy.WatchdogCount) != 1 {
		t.Error("it does not run as it was told to")
	}
	select {
	case <-fired:
	case <-time.After(10 * time.Second):
		t.Fatal("it did not fire")
	}
}

func TestAWatchdogThatIsStoppedPausedOrClosedDoesNotFire(t *testing.T) {
	for name, quiet := range map[string]func(w *legacy.Watchdog){
		"stopped": func(w *legacy.Watchdog) { put(w, legacy.WatchdogControl, 0) },
		"paused":  func(w *legacy.Watchdog) { w.Pause(); w.Pause() },
		"closed":  func(w *legacy.Watchdog) { w.Close(); put(w, legacy.WatchdogControl, 1) },
		"given a longer time": func(w *legacy.Watchdog) {
			put(w, legacy.WatchdogCount, 5000)
			if left := get(w, legacy.WatchdogLeft); left < 4000 || left > 5000 {
				t.Errorf("%d ticks left", left)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, fired := watchdog(t)
			put(w, legacy.WatchdogCount, 2)
			put(w, legacy.WatchdogControl, 1)
			quiet(w)
			select {
			case <-fired:
				t.Error("it fired")
			case <-time.After(400 * time.Millisecond): // twice its time
			}
		})
	}
}

func TestAWatchdogGoesOnWithTheTimeThatWasLeft(t *testing.T) {
	w, _ := watchdog(t)
	put(w, legacy.WatchdogCount, 300)
	put(w, legacy.WatchdogControl, 1)
	w.Pause()
	sec, err := state.Save("watchdog", w)
	if err != nil {
		t.Fatal(err)
	}
	other, fired := watchdog(t)
	if err := state.Load(sec, other); err != nil {
		t.Fatal(err)
	}
	if get(other, legacy.WatchdogControl) != 1 || get(other, legacy.WatchdogCount) != 300 {
		t.Error("it is not as it was saved")
	}
	other.Resume()
	if left := get(other, legacy.WatchdogLeft); left < 200 || left > 300 {
		t.Errorf("%d ticks left of 300", left)
	}
	if len(fired) > 0 {
		t.Error("it fired")
	}
}

func TestOddAccessesOfAWatchdogDoNothing(t *testing.T) {
	w, _ := watchdog(t)
	put(w, legacy.WatchdogCount, 0)
	put(w, legacy.WatchdogControl, 1)
	if n := get(w, legacy.WatchdogCount); n != 1 {
		t.Errorf("a count of %d", n)
	}
	w.Pause()
	for off := range uint64(legacy.WatchdogSize) {
		for _, n := range []int{1, 2, 3} {
			b := make([]byte, n)
			w.ReadAt(off, b)
			w.WriteAt(off, b)
		}
	}
	if get(w, legacy.WatchdogControl) != 1 {
		t.Error("a byte has stopped it")
	}
}
