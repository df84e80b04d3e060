package kvm

import "encoding/binary"

// LAPICState is struct kvm_lapic_state: the local APIC's registers at their
// xAPIC offsets, in x2APIC mode too.
type LAPICState struct {
	Regs [0x400]uint8
}

// Offsets of local APIC registers that a VMM looks at (Intel SDM volume 3,
// table "Local APIC Register Address Map").
const (
	LAPICID        = 0x20
	LAPICVersion   = 0x30
	LAPICTPR       = 0x80
	LAPICSpurious  = 0xf0
	LAPICLVTTimer  = 0x320
	LAPICLVTLINT0  = 0x350
	LAPICLVTLINT1  = 0x360
	LAPICTimerInit = 0x380
	LAPICTimerCur  = 0x390
)

// Delivery modes of LVT entries and MSIs (bits 8 to 10).
const (
	APICDeliveryFixed  = 0 << 8
	APICDeliveryNMI    = 4 << 8
	APICDeliveryExtINT = 7 << 8
)

// Reg returns the 32-bit register at off, which is a multiple of 16 below
// 0x400; other offsets read 0.
func (l *LAPICState) Reg(off int) uint32 {
	if off < 0 || off > len(l.Regs)-16 || off%16 != 0 {
		return 0
	}
	return binary.LittleEndian.Uint32(l.Regs[off:])
}

// SetReg sets the 32-bit register at off; offsets that Reg does not take are
// ignored.
func (l *LAPICState) SetReg(off int, v uint32) {
	if off < 0 || off > len(l.Regs)-16 || off%16 != 0 {
		return
	}
	binary.LittleEndian.PutUint32(l.Regs[off:], v)
}

// LAPIC returns the local APIC's registers (KVM_GET_LAPIC). It needs an
// in-kernel local APIC: EINVAL without. Reading may change state: a posted
// interrupt is moved into the IRR.
func (v *VCPU) LAPIC() (LAPICState, error) { return get[LAPICState](&v.fd, &reqGetLAPIC) }

// SetLAPIC sets the local APIC's registers (KVM_SET_LAPIC). Set the APIC base
// (SetSregs) before: it decides in which mode the registers are read.
func (v *VCPU) SetLAPIC(l *LAPICState) error { return set(&v.fd, &reqSetLAPIC, l) }
