package kvm

import (
	"fmt"
	"unsafe"
)

// exitAs views the union of kvm_run as the given exit's data.
func exitAs[T any](v *VCPU) *T {
	// SAFETY: every T used here is a struct of fixed-width integers of at most
	// 256 bytes, the size of the union (TestABI), which is 8-byte aligned and
	// lives as long as the mapping.
	return (*T)(unsafe.Pointer(&v.run.exit))
}

// rawIO is kvm_run.io.
type rawIO struct {
	Direction  uint8
	Size       uint8
	Port       uint16
	Count      uint32
	DataOffset uint64
}

const exitIOOut = 1 // KVM_EXIT_IO_OUT

// IOExit is a port access of the guest. A REP INS or OUTS is one exit with
// Count elements.
type IOExit struct {
	Port  uint16
	Size  int    // bytes of one element: 1, 2 or 4
	Count int    // elements
	Out   bool   // the guest writes
	Data  []byte // Size*Count bytes in the kvm_run mapping; fill it when the guest reads
}

// Element returns the data of the i-th element of a port access.
func (e *IOExit) Element(i int) []byte { return e.Data[i*e.Size : (i+1)*e.Size : (i+1)*e.Size] }

// IO decodes ExitIO. Data is valid until the next Run; what is in it then is
// what the guest reads.
func (v *VCPU) IO() IOExit {
	r := exitAs[rawIO](v)
	e := IOExit{
		Port: r.Port, Size: int(r.Size), Count: int(r.Count),
		Out: r.Direction == exitIOOut,
	}
	off, n := r.DataOffset, uint64(r.Size)*uint64(r.Count)
	if off > uint64(len(v.mem)) || n > uint64(len(v.mem))-off {
		// The kernel keeps the data inside the mapping; if ever it does not,
		// there is nothing to serve.
		e.Count = 0
		return e
	}
	e.Data = v.mem[off : off+n : off+n]
	return e
}

// rawMMIO is kvm_run.mmio.
type rawMMIO struct {
	PhysAddr uint64
	Data     [8]uint8
	Len      uint32
	IsWrite  uint8
}

// MMIOExit is an access of the guest to an address with no memory slot.
type MMIOExit struct {
	Addr  uint64 // guest physical
	Write bool
	Data  []byte // 1 to 8 bytes in the kvm_run mapping; fill it when the guest reads
}

// MMIO decodes ExitMMIO. Data is valid until the next Run; what is in it then
// is what the guest reads.
func (v *VCPU) MMIO() MMIOExit {
	r := exitAs[rawMMIO](v)
	n := min(r.Len, uint32(len(r.Data)))
	return MMIOExit{Addr: r.PhysAddr, Write: r.IsWrite != 0, Data: r.Data[:n:n]}
}

// Hypercall is kvm_run.hypercall. Ret is set by the VMM.
type Hypercall struct {
	Nr       uint64
	Args     [6]uint64
	Ret      uint64
	LongMode uint32
	Pad      uint32
}

// Hypercall decodes ExitHypercall, which needs CapExitHypercall enabled.
func (v *VCPU) Hypercall() *Hypercall { return exitAs[Hypercall](v) }

// DebugExit is struct kvm_debug_exit_arch.
type DebugExit struct {
	Exception uint32 // 1 (#DB) or 3 (#BP)
	Pad       uint32
	PC        uint64 // linear address
	DR6, DR7  uint64
}

// Debug decodes ExitDebug.
func (v *VCPU) Debug() *DebugExit { return exitAs[DebugExit](v) }

// FailEntry is kvm_run.fail_entry: the processor refused to enter the guest.
type FailEntry struct {
	HardwareEntryFailureReason uint64
	CPU                        uint32 // the host CPU it happened on
	_                          uint32
}

// FailEntry decodes ExitFailEntry.
func (v *VCPU) FailEntry() *FailEntry { return exitAs[FailEntry](v) }

// UnknownExit returns the hardware's exit reason for ExitUnknown
// (kvm_run.hw.hardware_exit_reason).
func (v *VCPU) UnknownExit() uint64 { return v.run.exit[0] }

// Kinds of internal error.
const (
	InternalErrorEmulation            = 1 // KVM_INTERNAL_ERROR_EMULATION
	InternalErrorSimulEx              = 2 // KVM_INTERNAL_ERROR_SIMUL_EX
	InternalErrorDeliveryEv           = 3 // KVM_INTERNAL_ERROR_DELIVERY_EV
	InternalErrorUnexpectedExitReason = 4 // KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON
)

// emulationFlagInstructionBytes is
// KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES.
const emulationFlagInstructionBytes = 1

// InternalError is kvm_run.internal: KVM could not go on.
type InternalError struct {
	Suberror uint32 // InternalError*
	NData    uint32
	Data     [16]uint64
}

// Values returns the valid part of Data.
func (e *InternalError) Values() []uint64 { return e.Data[:min(e.NData, uint32(len(e.Data)))] }

// Instruction returns the bytes that could not be emulated, when KVM tells
// (kvm_run.emulation_failure), else nil.
func (e *InternalError) Instruction() []byte {
	if e.Suberror != InternalErrorEmulation || e.NData < 3 || e.Data[0]&emulationFlagInstructionBytes == 0 {
		return nil
	}
	// SAFETY: insn_size and insn_bytes[15] overlay Data[1] and Data[2].
	b := (*[16]uint8)(unsafe.Pointer(&e.Data[1]))
	return b[1 : 1+min(b[0], 15)]
}

// String says what happened, for a log.
func (e *InternalError) String() string {
	switch e.Suberror {
	case InternalErrorEmulation:
		if in := e.Instruction(); in != nil {
			return fmt.Sprintf("cannot emulate instruction % x", in)
		}
		return fmt.Sprintf("cannot emulate an instruction, data %#x", e.Values())
	case InternalErrorSimulEx:
		return fmt.Sprintf("unexpected simultaneous exceptions, data %#x", e.Values())
	case InternalErrorDeliveryEv:
		return fmt.Sprintf("unexpected exit while delivering an event, data %#x", e.Values())
	case InternalErrorUnexpectedExitReason:
		return fmt.Sprintf("unexpected exit reason, data %#x", e.Values())
	}
	return fmt.Sprintf("suberror %d, data %#x", e.Suberror, e.Values())
}

// InternalError decodes ExitInternalError.
func (v *VCPU) InternalError() *InternalError { return exitAs[InternalError](v) }

// Kinds of system event.
const (
	SystemEventShutdown = 1 // KVM_SYSTEM_EVENT_SHUTDOWN
	SystemEventReset    = 2 // KVM_SYSTEM_EVENT_RESET
	SystemEventCrash    = 3 // KVM_SYSTEM_EVENT_CRASH
	SystemEventWakeup   = 4 // KVM_SYSTEM_EVENT_WAKEUP
	SystemEventSuspend  = 5 // KVM_SYSTEM_EVENT_SUSPEND
	SystemEventSEVTerm  = 6 // KVM_SYSTEM_EVENT_SEV_TERM
)

// SystemEvent is kvm_run.system_event.
type SystemEvent struct {
	Type  uint32 // SystemEvent*
	NData uint32
	Data  [16]uint64
}

// Values returns the valid part of Data.
func (e *SystemEvent) Values() []uint64 { return e.Data[:min(e.NData, uint32(len(e.Data)))] }

// SystemEvent decodes ExitSystemEvent.
func (v *VCPU) SystemEvent() *SystemEvent { return exitAs[SystemEvent](v) }

// MSRExit is kvm_run.msr: an access to an MSR that was left to the VMM with
// CapX86UserSpaceMSR. The VMM sets Data for a read, or Error for a #GP.
type MSRExit struct {
	Error  uint8
	Pad    [7]uint8
	Reason uint32 // why KVM did not handle it: MSRExitReason*
	Index  uint32
	Data   uint64
}

// Values of MSRExit.Reason, and of the argument of CapX86UserSpaceMSR.
const (
	MSRExitReasonInval   = 1 << 0 // KVM_MSR_EXIT_REASON_INVAL
	MSRExitReasonUnknown = 1 << 1 // KVM_MSR_EXIT_REASON_UNKNOWN
	MSRExitReasonFilter  = 1 << 2 // KVM_MSR_EXIT_REASON_FILTER
)

// MSR decodes ExitX86RDMSR and ExitX86WRMSR.
func (v *VCPU) MSR() *MSRExit { return exitAs[MSRExit](v) }

// EOIVector decodes ExitIOAPICEOI: the guest ended this level-triggered vector.
func (v *VCPU) EOIVector() uint8 { return uint8(v.run.exit[0]) }

// NotifyContextInvalid is KVM_NOTIFY_CONTEXT_INVALID: the guest's state is
// broken and it must not run on.
const NotifyContextInvalid = 1

// NotifyFlags decodes ExitNotify.
func (v *VCPU) NotifyFlags() uint32 { return uint32(v.run.exit[0]) }

// MemoryFault is kvm_run.memory_fault (Linux 6.8, api.rst section 5).
type MemoryFault struct {
	Flags uint64
	GPA   uint64
	Size  uint64
}

// MemoryFaultPrivate is KVM_MEMORY_EXIT_FLAG_PRIVATE.
const MemoryFaultPrivate = 1 << 3

// MemoryFault decodes ExitMemoryFault: KVM could not get at the host memory
// behind this guest range.
func (v *VCPU) MemoryFault() *MemoryFault { return exitAs[MemoryFault](v) }
