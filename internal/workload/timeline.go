package workload

import "golang.org/x/sys/unix"

// Stage is one mark of an instance's start.
type Stage struct {
	Name string `json:"name"`
	// AtNs is the host's CLOCK_MONOTONIC in nanoseconds, so that marks of
	// several processes compare; for guest stages it is the guest's uptime.
	AtNs  int64 `json:"atNs"`
	Guest bool  `json:"guest,omitempty"`
}

// Monotonic returns the host's CLOCK_MONOTONIC in nanoseconds, the time base of
// Stage.AtNs. The clock always exists.
func Monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// TimelineFile is where an instance with Config.VM.Timeline leaves its stages,
// in its state directory.
const TimelineFile = "timeline.json"
