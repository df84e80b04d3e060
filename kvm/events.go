package kvm

import "fmt"

// VCPUEvents is struct kvm_vcpu_events, its nested structures flattened:
// exceptions, interrupts, NMIs and SMIs that are pending or under way.
type VCPUEvents struct {
	ExceptionInjected     uint8
	ExceptionNr           uint8
	ExceptionHasErrorCode uint8
	ExceptionPending      uint8
	ExceptionErrorCode    uint32
	InterruptInjected     uint8
	InterruptNr           uint8
	InterruptSoft         uint8
	InterruptShadow       uint8
	NMIInjected           uint8
	NMIPending            uint8
	NMIMasked             uint8
	NMIPad                uint8
	SIPIVector            uint32
	Flags                 uint32 // VCPUEventValid*: which fields SetVCPUEvents looks at
	SMISMM                uint8
	SMIPending            uint8
	SMIInsideNMI          uint8
	SMILatchedInit        uint8
	TripleFaultPending    uint8
	Reserved              [26]uint8
	ExceptionHasPayload   uint8
	ExceptionPayload      uint64
}

// Flags of VCPUEvents.
const (
	VCPUEventValidNMIPending  = 1 << 0 // KVM_VCPUEVENT_VALID_NMI_PENDING
	VCPUEventValidSIPIVector  = 1 << 1 // KVM_VCPUEVENT_VALID_SIPI_VECTOR
	VCPUEventValidShadow      = 1 << 2 // KVM_VCPUEVENT_VALID_SHADOW
	VCPUEventValidSMM         = 1 << 3 // KVM_VCPUEVENT_VALID_SMM
	VCPUEventValidPayload     = 1 << 4 // KVM_VCPUEVENT_VALID_PAYLOAD
	VCPUEventValidTripleFault = 1 << 5 // KVM_VCPUEVENT_VALID_TRIPLE_FAULT
)

// VCPUEvents returns pending events (KVM_GET_VCPU_EVENTS). An exit that is not
// completed (IO, MMIO) must be completed first.
func (v *VCPU) VCPUEvents() (VCPUEvents, error) {
	return get[VCPUEvents](&v.fd, &reqGetVCPUEvents)
}

// SetVCPUEvents sets pending events (KVM_SET_VCPU_EVENTS). On restore it comes
// last: setting other state can drop what is pending.
func (v *VCPU) SetVCPUEvents(e *VCPUEvents) error {
	return set(&v.fd, &reqSetVCPUEvents, e)
}

// MPState is a vCPU's multiprocessing state, KVM_MP_STATE_*.
type MPState uint32

// Multiprocessing states on x86.
const (
	MPStateRunnable      MPState = 0 // KVM_MP_STATE_RUNNABLE
	MPStateUninitialized MPState = 1 // KVM_MP_STATE_UNINITIALIZED: waits for INIT
	MPStateInitReceived  MPState = 2 // KVM_MP_STATE_INIT_RECEIVED: waits for SIPI
	MPStateHalted        MPState = 3 // KVM_MP_STATE_HALTED
	MPStateSIPIReceived  MPState = 4 // KVM_MP_STATE_SIPI_RECEIVED
	MPStateAPResetHold   MPState = 9 // KVM_MP_STATE_AP_RESET_HOLD
)

// String names the state.
func (s MPState) String() string {
	switch s {
	case MPStateRunnable:
		return "runnable"
	case MPStateUninitialized:
		return "uninitialized"
	case MPStateInitReceived:
		return "init received"
	case MPStateHalted:
		return "halted"
	case MPStateSIPIReceived:
		return "SIPI received"
	case MPStateAPResetHold:
		return "AP reset hold"
	}
	return fmt.Sprintf("MP state %d", uint32(s))
}

// mpState is struct kvm_mp_state.
type mpState struct {
	MPState MPState
}

// MPState returns the multiprocessing state (KVM_GET_MP_STATE). It accepts
// pending INIT and SIPI, which may change other state: on save read it first.
func (v *VCPU) MPState() (MPState, error) {
	s, err := get[mpState](&v.fd, &reqGetMPState)
	return s.MPState, explain(err, v.vm, CapMPState)
}

// SetMPState sets the multiprocessing state (KVM_SET_MP_STATE). Without an
// in-kernel local APIC only MPStateRunnable is taken.
func (v *VCPU) SetMPState(s MPState) error {
	return explain(set(&v.fd, &reqSetMPState, &mpState{MPState: s}), v.vm, CapMPState)
}
