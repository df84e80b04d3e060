package vcpu

import (
	"errors"

	"github.com/hvctl/hvctl/kvm"
)

// Errors of saving and loading.
var (
	// ErrState is wrapped when a saved vCPU cannot be: what a hostile file says
	// and what KVM on this host refuses.
	ErrState = errors.New("vCPU state refused")
	// ErrNested is wrapped when the guest runs guests of its own, whose state
	// is not carried.
	ErrNested = errors.New("the guest uses hardware virtualization itself")
)

// stateV1 is the section of a vCPU: structures of KVM's ABI as they are, for
// their layout cannot change. What is a pointer is there only where the host
// that saved it has the capability.
type stateV1 struct {
	CPUID   []kvm.CPUIDEntry `json:"cpuid"`
	TSCKHz  uint32           `json:"tsc_khz"`    // 0: the host's TSC was unstable
	TSCOff  *uint64          `json:"tsc_offset"` // from the host's TSC
	MPState kvm.MPState      `json:"mp_state"`
	Regs    kvm.Regs         `json:"regs"`
	Sregs   *kvm.Sregs       `json:"sregs,omitempty"`
	Sregs2  *kvm.Sregs2      `json:"sregs2,omitempty"` // instead of Sregs
	XSave   []byte           `json:"xsave"`
	XCRs    []kvm.XCR        `json:"xcrs"`
	Debug   kvm.DebugRegs    `json:"debug"`
	LAPIC   []byte           `json:"lapic"`
	MSRs    []msr            `json:"msrs"`
	Events  kvm.VCPUEvents   `json:"events"`
}

// msr is one model-specific register.
type msr struct {
	Index uint32 `json:"i"`
	Data  uint64 `json:"v"`
}

// StateVersion is the version of the section.
const StateVersion = 1

// Bounds of what a section may ask us to allocate or hand to KVM.
const (
	maxCPUID = 256 // KVM_MAX_CPUID_ENTRIES
	maxMSRs  = 1024
	maxXCRs  = 16
	maxXSave = 64 << 10
)

// Bits that say that the guest has switched hardware virtualization on.
const (
	eferSVME = 1 << 12
	cr4VMXE  = 1 << 13
)

// LVT timer register: the mode field, and its value for a timer that fires when
// the TSC reaches a deadline.
const (
	timerModeMask = 3 << 17
	timerDeadline = 2 << 17
	lvtMasked     = 1 << 16
)

// extraMSRs are those that a guest can write and that KVM_GET_MSR_INDEX_LIST
// leaves out on some kernels. All reset to zero, so that they are saved only
// when they are not.
func extraMSRs() []uint32 {
	all := []uint32{kvm.MSRMTRRDefType, kvm.MSRPAT, kvm.MSRXSS, kvm.MSRTSXCtrl, kvm.MSRMCGCtl, kvm.MSRMCGStatus}
	const mtrrPhysBase, mtrrPhys = 0x200, 16 // eight pairs of base and mask
	for i := range uint32(mtrrPhys) {
		all = append(all, mtrrPhysBase+i)
	}
	all = append(all, 0x250, 0x258, 0x259) // MTRRfix64K_00000, MTRRfix16K_80000, MTRRfix16K_A0000
	for i := range uint32(8) {
		all = append(all, 0x268+i) // MTRRfix4K_C0000 to MTRRfix4K_F8000
	}
	const banks = 32
	for i := range uint32(banks) {
		all = append(all, kvm.MSRMC0Ctl+4*i) // IA32_MCi_CTL
	}
	return all
}
