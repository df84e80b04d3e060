package kvm

// GuestDebug is struct kvm_guest_debug.
type GuestDebug struct {
	Control  uint32 // GuestDebug*
	Pad      uint32
	DebugReg [8]uint64 // DR0 to DR7, with GuestDebugUseHWBP
}

// Bits of GuestDebug.Control.
const (
	GuestDebugEnable     = 1 << 0  // KVM_GUESTDBG_ENABLE
	GuestDebugSingleStep = 1 << 1  // KVM_GUESTDBG_SINGLESTEP
	GuestDebugUseSWBP    = 1 << 16 // KVM_GUESTDBG_USE_SW_BP: INT3 exits
	GuestDebugUseHWBP    = 1 << 17 // KVM_GUESTDBG_USE_HW_BP: DebugReg applies
	GuestDebugInjectDB   = 1 << 18 // KVM_GUESTDBG_INJECT_DB
	GuestDebugInjectBP   = 1 << 19 // KVM_GUESTDBG_INJECT_BP
	GuestDebugBlockIRQ   = 1 << 20 // KVM_GUESTDBG_BLOCKIRQ: no interrupts while stepping
)

// SetGuestDebug turns debugging of the guest on or off (KVM_SET_GUEST_DEBUG);
// events are ExitDebug. The zero value turns it off.
func (v *VCPU) SetGuestDebug(d *GuestDebug) error {
	return explain(set(&v.fd, &reqSetGuestDebug, d), v.vm, CapSetGuestDebug)
}
