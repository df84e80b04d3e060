package workload

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Deadline is a promise of processor time (sched(7), SCHED_DEADLINE): Runtime
// in every Period, within Deadline of its begin. A VM has it for each of its
// processors, a container for the first process's main thread; what these start
// is scheduled as usual.
type Deadline struct {
	Runtime  time.Duration `json:"runtime"` // all in nanoseconds
	Deadline time.Duration `json:"deadline"`
	Period   time.Duration `json:"period"`
}

// Bounds of a period: the kernel's own, /proc/sys/kernel/sched_deadline_period_*.
const (
	minPeriod = 100 * time.Microsecond
	maxPeriod = 1 << 22 * time.Microsecond
)

// ParseDeadline reads RUNTIME,DEADLINE,PERIOD, or RUNTIME,PERIOD with both the
// same, such as "5ms,20ms,20ms".
func ParseDeadline(s string) (*Deadline, error) {
	parts := strings.Split(s, ",")
	if len(parts) == 2 {
		parts = append(parts, parts[1])
	}
	if len(parts) != 3 {
		return nil, fmt.Errorf("deadline %q: want RUNTIME,DEADLINE,PERIOD, such as 5ms,20ms,20ms", s)
	}
	var d Deadline
	for i, to := range []*time.Duration{&d.Runtime, &d.Deadline, &d.Period} {
		v, err := time.ParseDuration(parts[i])
		if err != nil {
			return nil, fmt.Errorf("deadline %q: %q is no time such as 5ms", s, parts[i])
		}
		*to = v
	}
	if d.Runtime < 1024 || d.Runtime > d.Deadline || d.Deadline > d.Period || d.Period < minPeriod || d.Period > maxPeriod {
		return nil, fmt.Errorf("deadline %q: want RUNTIME <= DEADLINE <= PERIOD, and a period of %v to %v", s, minPeriod, maxPeriod)
	}
	return &d, nil
}

// Explain says what a refusal of the kernel means.
func (d *Deadline) Explain(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("--cpu-deadline: %.0f %% of a processor cannot be promised beside what is promised already: %w", 100*float64(d.Runtime)/float64(d.Period), err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("--cpu-deadline: %w: it needs CAP_SYS_NICE, and no cpuset that leaves processors out", err)
	}
	return fmt.Errorf("--cpu-deadline: %w", err)
}
