package kvm

import (
	"sync/atomic"
)

// CauseRegisters are the two registers of devices by which a driver asks why it
// was interrupted, and says that it knows: InterruptStatus and InterruptACK of
// virtio-mmio (virtio 1.2, 4.2.2). A driver makes both accesses for every
// interrupt. Run serves them itself and goes back to the guest, for coming back to
// the caller costs several times as much.
//
// The devices' register ranges lie side by side. Nothing of it changes once a vCPU
// has it.
type CauseRegisters struct {
	Base  uint64 // of the first range
	Shift uint8  // each range is 1<<Shift bytes
	// Status and ACK are the registers' places in a range. A 4-byte read of Status
	// gives the word; a 4-byte write to ACK clears its bits in the word.
	Status, ACK uint64
	// Words are the devices' causes; at most MaxCauses.
	Words []*atomic.Uint32
}

// MaxCauses is how many devices CauseRegisters has at most.
const MaxCauses = 64

// causes is CauseRegisters as the loop in assembly reads it. It has Go's pointers
// in it, so whoever holds it holds the words.
type causes struct {
	base, shift, mask, status, ack, count uint64
	served                                *atomic.Uint64
	words                                 [MaxCauses]*atomic.Uint32
}

// ServeCauses has Run serve r's registers from the next call on, and count the
// accesses in served. nil ends it.
func (v *VCPU) ServeCauses(r *CauseRegisters, served *atomic.Uint64) {
	if r == nil {
		v.causes = nil
		return
	}
	c := &causes{base: r.Base, shift: uint64(r.Shift), mask: 1<<r.Shift - 1, status: r.Status, ack: r.ACK, served: served}
	c.count = uint64(copy(c.words[:], r.Words))
	v.causes = c
}
