package irq

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/hvctl/hvctl/kvm"
)

// MaxRoutes is how many interrupts of one VM can be raised by others in the
// kernel at the same time. Together with the pins' routes they stay below
// kvm.MaxIRQRoutes.
const MaxRoutes = 512

// ErrNoGSI means that MaxRoutes interrupts are bound.
var ErrNoGSI = errors.New("no free GSI")

// Metrics are the counters of a Controller.
type Metrics struct {
	Tables  atomic.Uint64 `metric:"routing_tables_total,1"` // given to KVM
	IRQFDs  atomic.Uint64 `metric:"irqfds_total,1"`         // assigned
	Refused atomic.Uint64 `metric:"irqfds_refused_total,1"` // the interrupts pass through the VMM instead
}

// Metrics returns the counters.
func (c *Controller) Metrics() *Metrics { return &c.metrics }

// route makes *gsi, chosen first when it is 0, lead to msg.
func (c *Controller) route(gsi *uint32, msg message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := *gsi
	if n == 0 {
		if len(c.routes) >= MaxRoutes {
			return fmt.Errorf("%w: %d are in use", ErrNoGSI, MaxRoutes)
		}
		for n = Pins; ; n++ {
			if _, used := c.routes[n]; !used {
				break
			}
		}
	}
	old, had := c.routes[n]
	if had && old == msg {
		return nil
	}
	c.routes[n] = msg
	if err := c.program(); err != nil {
		if delete(c.routes, n); had {
			c.routes[n] = old // as KVM still has it
		}
		return err
	}
	*gsi = n
	return nil
}

// unroute frees gsi. Should KVM refuse the smaller table, the route stays in its
// larger one, where no irqfd leads to it, until the next change.
func (c *Controller) unroute(gsi uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.routes, gsi)
	return c.program()
}

// program gives KVM the whole table. mu is held.
func (c *Controller) program() error {
	table := kvm.DefaultIRQRoutes()
	for _, gsi := range slices.Sorted(maps.Keys(c.routes)) {
		table = append(table, kvm.MSIRoute(gsi, c.routes[gsi].addr, c.routes[gsi].data))
	}
	c.metrics.Tables.Add(1)
	return c.vm.SetGSIRouting(table)
}
