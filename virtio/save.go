package virtio

import (
	"context"
	"fmt"
)

// CoreState is the core's part of a transport's section.
type CoreState struct {
	Status     Status       `json:"status"`
	Driver     Features     `json:"driver_features"`
	Generation uint32       `json:"config_generation"`
	Queues     []QueueState `json:"queues"`
}

// Stop pauses: it joins every worker at a chain boundary and leaves doorbells
// in place, so that what rings meanwhile is served after Start. When ctx ends
// first it returns its error; call Stop or Start again. An error wrapping
// ErrBusy means that the device kept chains it should have pushed or unpopped.
func (c *Core) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = true
	if err := c.join(ctx); err != nil {
		return err
	}
	if !c.Status().running() {
		return nil // after NEEDS_RESET a chain may be left over: its ring is dead
	}
	for _, q := range c.queues {
		if q.popped > 0 && q.state.Enabled {
			return fmt.Errorf("%w: device %d kept %d chains of queue %d over a pause", ErrBusy, c.info.ID, q.popped, q.index)
		}
	}
	return nil
}

// Start undoes Stop, or completes LoadState: then it also raises every
// interrupt once, because one that was on its way may not have been saved, and
// a superfluous one is harmless.
func (c *Core) Start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused || c.closed {
		return nil
	}
	if err := c.join(context.Background()); err != nil {
		return err
	}
	c.paused = false
	loaded := c.loaded
	c.loaded = false
	if loaded && c.Status()&StatusDriverOK != 0 {
		c.active = true
		if c.opts.Activated != nil {
			c.opts.Activated()
		}
	}
	if c.Status().running() {
		c.start()
	}
	if loaded && c.Status()&StatusDriverOK != 0 {
		return c.interruptAll()
	}
	return nil
}

func (c *Core) interruptAll() error {
	for _, q := range c.queues {
		if q.state.Enabled {
			if err := c.irq.Queue(q.index); err != nil {
				return fmt.Errorf("virtio device %d: interrupt of queue %d: %w", c.info.ID, q.index, err)
			}
		}
	}
	c.interruptConfig()
	return nil
}

// SaveState returns the state. Preconditions: stopped; else the error wraps
// ErrBusy.
func (c *Core) SaveState() (CoreState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused || c.run != nil {
		return CoreState{}, fmt.Errorf("%w: device %d is not stopped", ErrBusy, c.info.ID)
	}
	s := CoreState{Status: c.Status(), Driver: c.driver, Generation: c.generation.Load()}
	for _, q := range c.queues {
		s.Queues = append(s.Queues, q.state)
	}
	return s, nil
}

// LoadState puts a new core in state s and leaves it stopped: Start makes it
// run. s gets the checks that a driver's writes get; errors wrap ErrState, and
// then the core is unchanged.
func (c *Core) LoadState(s CoreState) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil || c.active || c.Status() != 0 {
		return fmt.Errorf("%w: device %d has been used", ErrBusy, c.info.ID)
	}
	if err := c.checkState(s); err != nil {
		return fmt.Errorf("%w: device %d: %w", ErrState, c.info.ID, err)
	}
	for i, q := range c.queues {
		q.state = s.Queues[i]
		if q.state.Enabled && s.Status.running() {
			if err := q.prepare(c.mem, s.Driver); err != nil { // checked above
				return fmt.Errorf("%w: %w", ErrState, err)
			}
		}
	}
	c.driver, c.paused, c.loaded = s.Driver, true, true
	c.generation.Store(s.Generation)
	c.status.Store(uint32(s.Status))
	return nil
}

func (c *Core) checkState(s CoreState) error {
	if !s.Status.legal() {
		return fmt.Errorf("status %#02x cannot be", uint8(s.Status))
	}
	if len(s.Queues) != len(c.queues) {
		return fmt.Errorf("state of %d queues for a device with %d", len(s.Queues), len(c.queues))
	}
	if s.Status&StatusFeaturesOK != 0 {
		if err := c.checkFeatures(s.Driver); err != nil {
			return err
		}
	}
	for i, q := range s.Queues {
		switch {
		case q.Enabled && s.Status&StatusFeaturesOK == 0:
			return fmt.Errorf("queue %d is enabled before FEATURES_OK", i)
		case !q.Enabled || !s.Status.running():
			continue // judged at DRIVER_OK, or never used again
		}
		if err := q.check(c.mem, c.queues[i].max); err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
	}
	return nil
}
