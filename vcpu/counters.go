package vcpu

import "sync/atomic"

// Counters counts exits to us by reason since the vCPU was made. A string I/O
// instruction counts once per exit, not per element. Causes are accesses to
// Options.Causes, which are no exits to us. Interrupted are kicks and stray
// signals; Debug are a debugger's stops; Other is what ended the vCPU.
type Counters struct {
	PIO, MMIO, Causes, Interrupted, Debug, Other atomic.Uint64
}

// Add adds the counts to m under stable names.
func (c *Counters) Add(m map[string]uint64) {
	m["exit_pio_total"] += c.PIO.Load()
	m["exit_mmio_total"] += c.MMIO.Load()
	m["exit_cause_total"] += c.Causes.Load()
	m["exit_intr_total"] += c.Interrupted.Load()
	m["exit_debug_total"] += c.Debug.Load()
	m["exit_other_total"] += c.Other.Load()
}
