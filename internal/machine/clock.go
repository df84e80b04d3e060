package machine

import (
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
	"github.com/hvctl/hvctl/vcpu/cpuid"
)

// MaxClockJump bounds how far a restored guest's clocks are moved on
// (Restore.FollowTime). A larger gap is no switch-over any more, or two hosts'
// clocks disagree; the guest then lags behind instead of jumping.
const MaxClockJump = 10 * time.Second

// ClockUse says what was done to a restored guest's clocks.
type ClockUse struct {
	Passed   time.Duration // host time since they were saved, as far as the hosts agree
	Advanced time.Duration // by so much they were moved on
}

// Clock returns what LoadState did to the guest's clocks.
func (m *Machine) Clock() ClockUse {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clock
}

// clock is the section of the VM's kvmclock and of the host's TSC at the same
// moment, from which the vCPUs' TSC offsets count.
type clock struct {
	m *Machine

	// Set by LoadState.
	saved clockV1
	use   ClockUse
	at    time.Time // when shift was taken
	shift uint64    // what the vCPUs' TSC offsets change by
}

type clockV1 struct {
	Nanoseconds uint64  `json:"ns"`            // kvmclock
	Realtime    int64   `json:"realtime_ns"`   // host's CLOCK_REALTIME then
	HostTSC     *uint64 `json:"host_tsc"`      // then; null without TSC offsets
	TSCKHz      uint32  `json:"tsc_khz"`       // 0: unknown
	Stable      bool    `json:"tsc_is_stable"` // KVM says so; for whoever reads it
}

func (c *clock) StateVersion() uint32 { return 1 }

func (c *clock) SaveState() (any, error) {
	var s clockV1
	now, err := c.m.vm.Clock()
	if err != nil {
		return nil, err
	}
	s.Realtime = time.Now().UnixNano()
	tsc, khz, err := c.host()
	if err != nil {
		return nil, err
	}
	s.TSCKHz, s.HostTSC = khz, tsc
	s.Nanoseconds, s.Stable = now.Clock, now.Flags&kvm.ClockTSCStable != 0
	if now.Flags&kvm.ClockRealtime != 0 {
		s.Realtime = int64(now.Realtime)
	}
	if tsc != nil && now.Flags&kvm.ClockHostTSC != 0 {
		*s.HostTSC = now.HostTSC // of the very moment
	}
	return s, nil
}

// host returns the host's TSC, nil where offsets are not to be had, and its
// frequency. KVM_GET_CLOCK has it only once a vCPU has run.
func (c *clock) host() (tsc *uint64, khz uint32, err error) {
	err = c.m.cpus[0].Do(func(v *kvm.VCPU) error {
		khz, _ = v.TSCKHz() // EIO: unstable
		n, ok, err := vcpu.HostTSC(v)
		if ok {
			tsc = &n
		}
		return err
	})
	return tsc, khz, err
}

// LoadState decides how far the clocks move; set moves kvmclock.
func (c *clock) LoadState(d state.Decoder) error {
	if err := d.Into(&c.saved); err != nil {
		return err
	}
	if c.saved.Nanoseconds > math.MaxInt64 {
		return fmt.Errorf("%w: kvmclock of %d ns", errClock, c.saved.Nanoseconds)
	}
	now, khz, err := c.host()
	if err != nil {
		return err
	}
	c.at = time.Now()
	c.use.Passed = time.Duration(c.at.UnixNano() - c.saved.Realtime)
	if c.m.cfg.Restore.FollowTime {
		c.use.Advanced = min(max(c.use.Passed, 0), MaxClockJump)
	}
	if now != nil && c.saved.HostTSC != nil {
		c.shift = *c.saved.HostTSC + c.ticks(khz) - *now
	}
	return nil
}

var errClock = errors.New("impossible clock")

// ticks is the advance in TSC cycles. The bound on the advance keeps the
// product far from wrapping.
func (c *clock) ticks(khz uint32) uint64 {
	return uint64(c.use.Advanced.Microseconds()) * uint64(khz) / 1000
}

// set makes kvmclock what it would read now had it run since LoadState began, as
// the TSCs do.
func (c *clock) set() error {
	ns := c.saved.Nanoseconds + uint64(c.use.Advanced) + uint64(time.Since(c.at))
	err := c.m.vm.SetClock(&kvm.ClockData{Clock: ns})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: kvmclock of %d ns: %w", errClock, ns, err)
	}
	return err
}

// loading is what parts need to know of each other while they are loaded; the
// zero value does for saving.
type loading struct {
	m     *Machine
	clock *clock
	host  []cpuid.Entry // what KVM supports here
}

// options is how one vCPU is loaded.
func (l loading) options() vcpu.LoadOptions {
	return vcpu.LoadOptions{
		TSCShift:   l.clock.shift,
		TSCElapsed: l.clock.ticks(l.clock.saved.TSCKHz),
		Admit: func(v *kvm.VCPU, guest []kvm.CPUIDEntry) error {
			offered, err := l.m.offer(v, l.host, cpuid.Host) // whatever the guest booted with
			if err != nil {
				return err
			}
			return cpuid.Compatible(policyCPUID(guest), offered)
		},
		Note: func(msg string, args ...any) {
			l.m.cfg.Log.Info(msg, args...) //nolint:sloglint // constants of package vcpu
		},
	}
}
