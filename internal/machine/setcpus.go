package machine

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/hvctl/hvctl/kvm"
)

// CPUs returns how many vCPUs the guest has, and how many it can have.
func (m *Machine) CPUs() (now, most int) {
	if m.plugCPU == nil {
		return m.cfg.CPUs, m.cfg.MaxCPUs
	}
	present, _ := m.plugCPU.now()
	return bits.OnesCount64(present), m.cfg.MaxCPUs
}

// SetCPUs gives a running guest n vCPUs, the lowest that there are, and waits until
// it runs on those that came, or has given back those that it was asked for; or
// until ctx ends. A guest that has not even looked by then gets none, and is not
// asked any more. One that has looked has them, or keeps them: the error then says
// so. Errors wrap ErrPlug, ErrUntaken or ErrEnded.
func (m *Machine) SetCPUs(ctx context.Context, n int) error {
	come, leave, err := m.changeCPUs(n)
	switch {
	case err != nil:
		return err
	case come != 0:
		return m.awaitCPUs(ctx, come)
	case leave != 0:
		return m.awaitEject(ctx, leave)
	}
	return nil
}

// changeCPUs tells the guest what SetCPUs wants, and returns which vCPUs that is.
func (m *Machine) changeCPUs(n int) (come, leave uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	no := func(format string, args ...any) (uint64, uint64, error) {
		return 0, 0, fmt.Errorf("%w: "+format, append([]any{ErrPlug}, args...)...)
	}
	switch {
	case m.closed || m.ended.Load():
		return 0, 0, ErrEnded
	case n < 1 || n > m.cfg.MaxCPUs:
		return no("%d processors; the machine was made for 1 to %d (--max-cpus)", n, m.cfg.MaxCPUs)
	case m.plugCPU == nil:
		return 0, 0, nil // it has as many as it can
	case m.paused.Load() || !m.entered:
		return no("the machine is paused; resume it first")
	case m.logging:
		return no("the machine is being saved or sent")
	case m.debugger.Load() != nil:
		return no("%w; detach it first", ErrDebugged)
	}
	present, _ := m.plugCPU.now()
	for i := range m.cpus {
		if bit := uint64(1) << i; present&bit == 0 && bits.OnesCount64(present|come) < n {
			come |= bit
		}
	}
	for i := len(m.cpus) - 1; i > 0; i-- {
		if bit := uint64(1) << i; present&bit != 0 && bits.OnesCount64(present&^leave) > n {
			leave |= bit
		}
	}
	if leave != 0 {
		return 0, leave, m.plugCPU.ask(leave)
	}
	if come == 0 {
		return 0, 0, nil
	}
	if err := m.vacate(); err != nil { // one of them may just have been given back
		return 0, 0, m.orEnded(err)
	}
	if err := m.plugCPU.arrive(come); err != nil {
		return 0, 0, err
	}
	return come, 0, m.orEnded(m.resumeCPUs())
}

// awaitCPUs waits until the guest has started vCPUs.
func (m *Machine) awaitCPUs(ctx context.Context, set uint64) error {
	for {
		present, changed := m.plugCPU.now()
		if gone := set &^ present; gone != 0 {
			return fmt.Errorf("%w: the guest has given processors back at once: %v", ErrPlug, numbers(gone))
		}
		waiting := uint64(0)
		for _, i := range numbers(set) {
			started := false
			if err := m.cpus[i].Do(func(c *kvm.VCPU) (err error) {
				s, err := c.MPState()
				started = s != kvm.MPStateUninitialized
				return err
			}); err != nil {
				return m.orEnded(err)
			}
			if !started {
				waiting |= 1 << i
			}
		}
		if waiting == 0 {
			return nil
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
		}
		if unseen, _ := m.plugCPU.withdraw(waiting, 0); unseen != 0 {
			m.afterEject()
			return fmt.Errorf("%w: processors %v were not plugged in: the guest never looked for them; is its kernel still starting, or without CONFIG_ACPI_HOTPLUG_CPU?", ErrUntaken, numbers(unseen))
		}
		return fmt.Errorf("%w: processors %v are plugged in, and nobody there has started them; in a guest without hvctl's agent or udev write 1 to /sys/devices/system/cpu/cpuN/online",
			ErrUntaken, numbers(waiting))
	}
}

// awaitEject waits until the guest has given vCPUs back.
func (m *Machine) awaitEject(ctx context.Context, set uint64) error {
	for {
		present, changed := m.plugCPU.now()
		stay := set & present
		if stay == 0 {
			return nil
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
		}
		if _, unread := m.plugCPU.withdraw(0, stay); unread != 0 {
			return fmt.Errorf("%w: processors %v stay: the guest never looked at the request; is its kernel without CONFIG_ACPI_HOTPLUG_CPU?", ErrUntaken, numbers(stay))
		}
		return fmt.Errorf("%w: processors %v stay until the guest lets go of them; it was asked, and has not done so yet", ErrUntaken, numbers(stay))
	}
}

// afterEject is vacate, for who does not hold mu.
func (m *Machine) afterEject() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.ended.Load() {
		return
	}
	if err := m.vacate(); err != nil && !errors.Is(m.orEnded(err), ErrEnded) {
		m.fail(err)
	}
}

// vacate stops vCPUs that were given back, and leaves them as they are before a
// guest starts them: one that it did not stop itself runs no more. mu is held.
func (m *Machine) vacate() error {
	for _, i := range numbers(m.plugCPU.leavers()) {
		c := m.cpus[i]
		err := c.Park()
		if err == nil {
			err = c.Do(func(c *kvm.VCPU) error { return c.SetMPState(kvm.MPStateUninitialized) })
		}
		if err != nil {
			return fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return nil
}

// numbers lists the bits of a set.
func numbers(set uint64) (all []int) {
	for ; set != 0; set &= set - 1 {
		all = append(all, bits.TrailingZeros64(set))
	}
	return all
}
