package machine

import (
	"errors"
	"testing"
)

func TestAThrottledGuestIsHeldBackUntilItIsPaused(t *testing.T) {
	m := newMachine(t, Config{CPUs: 2}, spin...)
	for _, percent := range []int{-1, 100} {
		if err := m.Throttle(percent); !errors.Is(err, ErrConfig) {
			t.Errorf("by %d percent: %v", percent, err)
		}
	}
	m.start(t, t.Context())
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
	held := func() uint64 { return m.Counters()["exit_intr_total"] }
	for _, percent := range []int{50, 99} {
		must(t, m.Throttle(percent))
		n, seen := held(), m.counted(t)
		eventually(t, "it is held back again and again", func() bool { return held() > n+6 })
		eventually(t, "it counts all the same", func() bool { return m.counted(t) != seen })
	}
	must(t, m.Pause(t.Context()))
	if m.slow != nil {
		t.Error("a paused guest is throttled")
	}
	must(t, m.Throttle(20))
	if m.slow != nil {
		t.Error("a paused guest is throttled")
	}
	must(t, m.Resume(t.Context()))
	must(t, m.Throttle(20))
	must(t, m.Throttle(0))
	n, seen := held(), m.counted(t)
	eventually(t, "it counts on", func() bool { return m.counted(t) != seen })
	if got := held(); got > n {
		t.Errorf("held back %d times after the throttle was taken away", got-n)
	}
}
