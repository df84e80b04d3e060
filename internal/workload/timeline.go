package workload

// Stage is one mark of an instance's start.
type Stage struct {
	Name string `json:"name"`
	// AtNs is the host's CLOCK_MONOTONIC in nanoseconds, so that marks of
	// several processes compare; for guest stages it is the guest's uptime.
	AtNs  int64 `json:"atNs"`
	Guest bool  `json:"guest,omitempty"`
}

// TimelineFile is where an instance with Config.VM.Timeline leaves its stages,
// in its state directory.
const TimelineFile = "timeline.json"
