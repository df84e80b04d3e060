package kvm

// Regs is struct kvm_regs: the general purpose registers.
type Regs struct {
	RAX, RBX, RCX, RDX uint64
	RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11   uint64
	R12, R13, R14, R15 uint64
	RIP, RFLAGS        uint64
}

// Segment is struct kvm_segment: a segment register with its hidden part.
// Limit is in bytes, whatever G says.
type Segment struct {
	Base     uint64
	Limit    uint32
	Selector uint16
	Type     uint8
	Present  uint8
	DPL      uint8
	DB       uint8
	S        uint8
	L        uint8
	G        uint8
	AVL      uint8
	Unusable uint8
	Padding  uint8
}

// DTable is struct kvm_dtable: GDTR or IDTR.
type DTable struct {
	Base    uint64
	Limit   uint16
	Padding [3]uint16
}

// Sregs is struct kvm_sregs: segments, descriptor tables, control registers,
// EFER and the APIC base. InterruptBitmap has at most one bit set: an external
// interrupt that was acknowledged and not yet delivered.
type Sregs struct {
	CS, DS, ES, FS, GS, SS  Segment
	TR, LDT                 Segment
	GDT, IDT                DTable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	APICBase                uint64
	InterruptBitmap         [4]uint64
}

// Sregs2 is struct kvm_sregs2: Sregs without the interrupt bitmap and with the
// PDPTRs of a PAE guest, which are not in guest memory while it runs.
type Sregs2 struct {
	CS, DS, ES, FS, GS, SS  Segment
	TR, LDT                 Segment
	GDT, IDT                DTable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	APICBase                uint64
	Flags                   uint64 // Sregs2FlagPDPTRsValid
	PDPTRs                  [4]uint64
}

// Sregs2FlagPDPTRsValid is KVM_SREGS2_FLAGS_PDPTRS_VALID.
const Sregs2FlagPDPTRsValid = 1

// DebugRegs is struct kvm_debugregs.
type DebugRegs struct {
	DB       [4]uint64
	DR6, DR7 uint64
	Flags    uint64
	Reserved [9]uint64
}

// Regs returns the general purpose registers (KVM_GET_REGS). After an IO or
// MMIO exit RIP is not defined until the access was completed by another Run.
func (v *VCPU) Regs() (Regs, error) { return get[Regs](&v.fd, &reqGetRegs) }

// SetRegs sets the general purpose registers (KVM_SET_REGS).
func (v *VCPU) SetRegs(r *Regs) error { return set(&v.fd, &reqSetRegs, r) }

// Sregs returns the special registers (KVM_GET_SREGS).
func (v *VCPU) Sregs() (Sregs, error) { return get[Sregs](&v.fd, &reqGetSregs) }

// SetSregs sets the special registers (KVM_SET_SREGS). The error is EINVAL
// when they make no sense together, for example EFER.LMA without CR0.PG.
func (v *VCPU) SetSregs(s *Sregs) error { return set(&v.fd, &reqSetSregs, s) }

// Sregs2 returns the special registers with PDPTRs (KVM_GET_SREGS2); it needs
// CapSregs2.
func (v *VCPU) Sregs2() (Sregs2, error) {
	s, err := get[Sregs2](&v.fd, &reqGetSregs2)
	return s, explain(err, v.vm, CapSregs2)
}

// SetSregs2 sets the special registers with PDPTRs (KVM_SET_SREGS2); it needs
// CapSregs2.
func (v *VCPU) SetSregs2(s *Sregs2) error {
	return explain(set(&v.fd, &reqSetSregs2, s), v.vm, CapSregs2)
}

// DebugRegs returns the debug registers (KVM_GET_DEBUGREGS).
func (v *VCPU) DebugRegs() (DebugRegs, error) { return get[DebugRegs](&v.fd, &reqGetDebugRegs) }

// SetDebugRegs sets the debug registers (KVM_SET_DEBUGREGS).
func (v *VCPU) SetDebugRegs(d *DebugRegs) error { return set(&v.fd, &reqSetDebugRegs, d) }
