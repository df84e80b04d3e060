package legacy

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/state"
)

// Registers of a Watchdog, of 32 bits each.
const (
	WatchdogControl = 0  // bit 0: it runs
	WatchdogCount   = 4  // ticks that it waits
	WatchdogLeft    = 8  // read: ticks left; write: begin anew
	WatchdogSize    = 12 // ports
)

const (
	// WatchdogTick is the unit of its counts.
	WatchdogTick = 100 * time.Millisecond
	// WatchdogMax is the longest count.
	WatchdogMax = 0xffff
)

// Watchdog fires when a guest that has started it does not write to it in time.
// The guest finds it in the ACPI table WDAT, by which Linux's wdat_wdt drives it.
// It is a bus.Handler on I/O ports; all methods may be called concurrently.
type Watchdog struct {
	fire func()

	mu      sync.Mutex // guards what follows
	timer   *time.Timer
	running bool
	paused  bool
	closed  bool
	count   uint32        // ticks, 1 to WatchdogMax
	due     time.Time     // when it runs and is not paused
	left    time.Duration // when it runs and is paused
}

// NewWatchdog makes one that calls fire, from a goroutine of its own.
func NewWatchdog(fire func()) *Watchdog {
	return &Watchdog{fire: fire, count: WatchdogMax}
}

// ReadAt implements bus.Handler.
func (w *Watchdog) ReadAt(off uint64, b []byte) {
	clear(b)
	if len(b) != 4 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	v := uint32(0)
	switch off {
	case WatchdogControl:
		if w.running {
			v = 1
		}
	case WatchdogCount:
		v = w.count
	case WatchdogLeft:
		v = uint32(w.remaining() / WatchdogTick)
	}
	binary.LittleEndian.PutUint32(b, v)
}

// WriteAt implements bus.Handler.
func (w *Watchdog) WriteAt(off uint64, b []byte) {
	if len(b) != 4 {
		return
	}
	v := binary.LittleEndian.Uint32(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch off {
	case WatchdogControl:
		w.running = v&1 != 0
	case WatchdogCount:
		w.count = min(max(v, 1), WatchdogMax)
	case WatchdogLeft:
	default:
		return
	}
	w.wait(time.Duration(w.count) * WatchdogTick)
}

// wait begins to wait for d, if it runs. mu is held.
func (w *Watchdog) wait(d time.Duration) {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.left = d
	if !w.running || w.paused || w.closed {
		return
	}
	w.due = time.Now().Add(d)
	w.timer = time.AfterFunc(d, w.expire)
}

// remaining is how long it still waits. mu is held.
func (w *Watchdog) remaining() time.Duration {
	switch {
	case !w.running:
		return 0
	case w.paused:
		return w.left
	}
	return max(0, time.Until(w.due))
}

func (w *Watchdog) expire() {
	w.mu.Lock()
	over := w.running && !w.paused && !w.closed && !time.Now().Before(w.due)
	w.mu.Unlock()
	if over { // or it was written to just now
		w.fire()
	}
}

// Pause stops its clock.
func (w *Watchdog) Pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused {
		return
	}
	w.left = w.remaining()
	w.paused = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// Resume undoes Pause.
func (w *Watchdog) Resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused {
		w.paused = false
		w.wait(w.left)
	}
}

// Close ends it; it does not fire any more.
func (w *Watchdog) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

type watchdogV1 struct {
	Running bool   `json:"running"`
	Count   uint32 `json:"count_ticks"`
	LeftMs  int64  `json:"left_ms"`
}

// StateVersion implements state.Stateful.
func (w *Watchdog) StateVersion() uint32 { return 1 }

// SaveState implements state.Stateful.
func (w *Watchdog) SaveState() (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return watchdogV1{w.running, w.count, w.remaining().Milliseconds()}, nil
}

// LoadState implements state.Stateful. It is paused afterwards.
func (w *Watchdog) LoadState(d state.Decoder) error {
	var s watchdogV1
	if err := d.Into(&s); err != nil {
		return err
	}
	const most = int64(WatchdogMax * WatchdogTick / time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused, w.running = true, s.Running
	w.count = min(max(s.Count, 1), WatchdogMax)
	w.left = time.Duration(min(max(s.LeftMs, 0), most)) * time.Millisecond
	return nil
}
