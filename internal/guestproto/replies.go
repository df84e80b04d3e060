package guestproto

import (
	"math"
	"strings"
)

// Limits of what a guest may say.
const (
	maxName      = 256
	maxText      = 4 << 10
	maxProcesses = 1024
	// MaxSignal is the highest signal number on Linux.
	MaxSignal = 64
)

// Hello is the guest's first message on each control connection.
type Hello struct {
	// Version is the guest's protocol version.
	Version int `json:"version"`
	// Kernel is the guest kernel's release.
	Kernel string `json:"kernel"`
	// BootNs is the guest's uptime in nanoseconds when its init began.
	BootNs int64 `json:"boot_ns"`
	// Running says that Run has been called: this is a reconnection.
	Running bool `json:"running,omitempty"`
	// Processes are those started and, of the ones that ended, the latest.
	Processes []ProcessState `json:"processes,omitempty"`
}

// ProcessState is what a reconnecting guest says about one process.
type ProcessState struct {
	ID       string `json:"id"`
	Terminal bool   `json:"terminal,omitempty"`
	// Exit is set when the process has ended and its streams are flushed.
	Exit *Exit `json:"exit,omitempty"`
}

// Validate checks a Hello that came from the guest.
func (h Hello) Validate() error {
	switch {
	case h.Version != Version && h.Version != Version-1:
		return invalid("guest speaks version %d of the protocol, this build %d and %d: use the hvinit of this build", h.Version, Version-1, Version)
	case len(h.Kernel) > maxName || !printable(h.Kernel):
		return invalid("hello: kernel release of %d bytes is too long or not printable", len(h.Kernel))
	case h.BootNs < 0:
		return invalid("hello: uptime %d ns", h.BootNs)
	case len(h.Processes) > maxProcesses:
		return invalid("hello: %d processes, at most %d", len(h.Processes), maxProcesses)
	}
	for _, p := range h.Processes {
		if err := CheckID(p.ID); err != nil {
			return err
		}
		if p.Exit == nil {
			continue
		}
		if err := p.Exit.Validate(); err != nil {
			return err
		}
		if p.Exit.ID != p.ID {
			return invalid("hello: process %s has the exit of %s", p.ID, p.Exit.ID)
		}
	}
	return nil
}

// Started answers Run and Exec.
type Started struct {
	// PID is the process's number in the guest's outermost namespace.
	PID int `json:"pid"`
}

// Validate checks a Started that came from the guest.
func (s Started) Validate() error {
	if s.PID < 1 || s.PID > math.MaxInt32 {
		return invalid("started: pid %d", s.PID)
	}
	return nil
}

// Exit says that a process ended. The guest sends it after the last byte of
// the process's output.
type Exit struct {
	ID string `json:"id"`
	// Code is the exit status, 0 when a signal ended the process.
	Code int `json:"code"`
	// Signal is the signal that ended it, or 0.
	Signal int `json:"signal,omitempty"`
	// OOM says that the guest's kernel killed it for lack of memory.
	OOM bool `json:"oom,omitempty"`
}

// Validate checks an Exit that came from the guest.
func (e Exit) Validate() error {
	if err := CheckID(e.ID); err != nil {
		return err
	}
	switch {
	case e.Code < 0 || e.Code > 255:
		return invalid("exit of %s: code %d", e.ID, e.Code)
	case e.Signal < 0 || e.Signal > MaxSignal:
		return invalid("exit of %s: signal %d", e.ID, e.Signal)
	case e.Signal != 0 && e.Code != 0:
		return invalid("exit of %s: both code %d and signal %d", e.ID, e.Code, e.Signal)
	}
	return nil
}

// Status is the exit status as a shell gives it: the code, or 128 plus the
// signal.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + e.Signal
	}
	return e.Code
}

// Log is a line for the host's log.
type Log struct {
	// Level is "debug", "info", "warn" or "error".
	Level   string `json:"level"`
	Message string `json:"message"`
}

// Validate checks a Log that came from the guest.
func (l Log) Validate() error {
	switch l.Level {
	case "debug", "info", "warn", "error":
	default:
		return invalid("log level of %d bytes", len(l.Level))
	}
	if len(l.Message) > maxText {
		return invalid("log message of %d bytes, at most %d", len(l.Message), maxText)
	}
	return nil
}

// Stats are the guest's figures for the workload, and for the machine.
type Stats struct {
	// CPU time of the workload in microseconds.
	CPUUsageUs  uint64 `json:"cpu_usage_us"`
	CPUUserUs   uint64 `json:"cpu_user_us"`
	CPUSystemUs uint64 `json:"cpu_system_us"`
	// Memory of the workload in bytes, page cache included. MemoryPeak is 0
	// where the guest's kernel does not record it.
	MemoryBytes     uint64 `json:"memory_bytes"`
	MemoryPeakBytes uint64 `json:"memory_peak_bytes"`
	// OOMKills is how often the kernel killed one of its processes.
	OOMKills uint64 `json:"oom_kills"`
	// PIDs is its number of tasks.
	PIDs uint64 `json:"pids"`
	// The machine's own memory in bytes.
	TotalBytes     uint64 `json:"total_bytes"`
	AvailableBytes uint64 `json:"available_bytes"`
	// UptimeNs is nanoseconds since the guest's kernel started.
	UptimeNs int64 `json:"uptime_ns"`
}

// Validate checks a Stats that came from the guest: the figures are shown and
// added up, so they must be possible ones.
func (s Stats) Validate() error {
	for _, v := range []uint64{
		s.CPUUsageUs, s.CPUUserUs, s.CPUSystemUs, s.MemoryBytes, s.MemoryPeakBytes,
		s.OOMKills, s.PIDs, s.TotalBytes, s.AvailableBytes,
	} {
		if v > 1<<60 {
			return invalid("stats: %d is not a possible figure", v)
		}
	}
	if s.UptimeNs < 0 {
		return invalid("stats: uptime %d ns", s.UptimeNs)
	}
	return nil
}

// Gap answers Beat.
type Gap struct {
	// LongestNs is the longest time between two looks at the clock in the beat that
	// ends with this answer; 0 when there was none.
	LongestNs int64 `json:"longest_ns"`
}

// Validate checks a Gap that came from the guest.
func (g Gap) Validate() error {
	if g.LongestNs < 0 {
		return invalid("gap: %d ns", g.LongestNs)
	}
	return nil
}

// Pong answers Ping.
type Pong struct {
	// UnixNano is the guest's wall clock.
	UnixNano int64 `json:"unix_nano"`
	// UptimeNs is the guest's boot clock.
	UptimeNs int64 `json:"uptime_ns"`
}

// Validate checks a Pong that came from the guest.
func (p Pong) Validate() error {
	if p.UptimeNs < 0 {
		return invalid("pong: uptime %d ns", p.UptimeNs)
	}
	return nil
}

// CheckID returns an error wrapping ErrInvalid unless id can name a process: 1
// to 64 letters, digits, dots, dashes or underscores.
func CheckID(id string) error {
	if len(id) < 1 || len(id) > 64 {
		return invalid("process id of %d bytes, want 1 to 64", len(id))
	}
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return invalid("process id has the byte %#x", c)
		}
	}
	return nil
}

// CleanText makes guest-chosen text safe to print on the operator's terminal
// or into a log: at most 4 KiB, control and non-ASCII bytes as dots.
func CleanText(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	if printable(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '.'
		}
		return r
	}, s)
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}
