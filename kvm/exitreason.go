package kvm

import "fmt"

// ExitReason says why Run came back: KVM_EXIT_*, or ExitAgain.
type ExitReason uint32

// Exit reasons on x86. For some an accessor of VCPU tells more.
const (
	ExitUnknown       ExitReason = 0  // KVM_EXIT_UNKNOWN
	ExitException     ExitReason = 1  // KVM_EXIT_EXCEPTION
	ExitIO            ExitReason = 2  // KVM_EXIT_IO: VCPU.IO
	ExitHypercall     ExitReason = 3  // KVM_EXIT_HYPERCALL: VCPU.Hypercall
	ExitDebug         ExitReason = 4  // KVM_EXIT_DEBUG: VCPU.Debug
	ExitHLT           ExitReason = 5  // KVM_EXIT_HLT: only without an in-kernel local APIC
	ExitMMIO          ExitReason = 6  // KVM_EXIT_MMIO: VCPU.MMIO
	ExitIRQWindowOpen ExitReason = 7  // KVM_EXIT_IRQ_WINDOW_OPEN
	ExitShutdown      ExitReason = 8  // KVM_EXIT_SHUTDOWN: triple fault
	ExitFailEntry     ExitReason = 9  // KVM_EXIT_FAIL_ENTRY: VCPU.FailEntry
	ExitIntr          ExitReason = 10 // KVM_EXIT_INTR: a signal or immediate exit
	ExitSetTPR        ExitReason = 11 // KVM_EXIT_SET_TPR
	ExitTPRAccess     ExitReason = 12 // KVM_EXIT_TPR_ACCESS
	ExitNMI           ExitReason = 16 // KVM_EXIT_NMI
	ExitInternalError ExitReason = 17 // KVM_EXIT_INTERNAL_ERROR: VCPU.InternalError
	ExitWatchdog      ExitReason = 21 // KVM_EXIT_WATCHDOG
	ExitSystemEvent   ExitReason = 24 // KVM_EXIT_SYSTEM_EVENT: VCPU.SystemEvent
	ExitIOAPICEOI     ExitReason = 26 // KVM_EXIT_IOAPIC_EOI: VCPU.EOIVector; split irqchip
	ExitHyperV        ExitReason = 27 // KVM_EXIT_HYPERV
	ExitX86RDMSR      ExitReason = 29 // KVM_EXIT_X86_RDMSR: VCPU.MSR
	ExitX86WRMSR      ExitReason = 30 // KVM_EXIT_X86_WRMSR: VCPU.MSR
	ExitDirtyRingFull ExitReason = 31 // KVM_EXIT_DIRTY_RING_FULL: harvest and reset, then run
	ExitAPResetHold   ExitReason = 32 // KVM_EXIT_AP_RESET_HOLD
	ExitX86BusLock    ExitReason = 33 // KVM_EXIT_X86_BUS_LOCK
	ExitXen           ExitReason = 34 // KVM_EXIT_XEN
	ExitNotify        ExitReason = 37 // KVM_EXIT_NOTIFY
	ExitMemoryFault   ExitReason = 39 // KVM_EXIT_MEMORY_FAULT (Linux 6.8): VCPU.MemoryFault
	ExitTDX           ExitReason = 40 // KVM_EXIT_TDX (Linux 6.16)

	// ExitAgain is not KVM's: KVM_RUN returned EAGAIN. The vCPU waited for
	// INIT or SIPI, was woken, and is not runnable yet. Run again.
	ExitAgain ExitReason = 1 << 31
)

var exitNames = map[ExitReason]string{
	ExitUnknown:       "unknown",
	ExitException:     "exception",
	ExitIO:            "io",
	ExitHypercall:     "hypercall",
	ExitDebug:         "debug",
	ExitHLT:           "hlt",
	ExitMMIO:          "mmio",
	ExitIRQWindowOpen: "irq_window_open",
	ExitShutdown:      "shutdown",
	ExitFailEntry:     "fail_entry",
	ExitIntr:          "intr",
	ExitSetTPR:        "set_tpr",
	ExitTPRAccess:     "tpr_access",
	ExitNMI:           "nmi",
	ExitInternalError: "internal_error",
	ExitWatchdog:      "watchdog",
	ExitSystemEvent:   "system_event",
	ExitIOAPICEOI:     "ioapic_eoi",
	ExitHyperV:        "hyperv",
	ExitX86RDMSR:      "x86_rdmsr",
	ExitX86WRMSR:      "x86_wrmsr",
	ExitDirtyRingFull: "dirty_ring_full",
	ExitAPResetHold:   "ap_reset_hold",
	ExitX86BusLock:    "x86_bus_lock",
	ExitXen:           "xen",
	ExitNotify:        "notify",
	ExitMemoryFault:   "memory_fault",
	ExitTDX:           "tdx",
	ExitAgain:         "again",
}

// String names the reason as the kernel does, in lower case and without
// KVM_EXIT_: fit for the name of a counter.
func (r ExitReason) String() string {
	if n, ok := exitNames[r]; ok {
		return n
	}
	return fmt.Sprintf("exit_%d", uint32(r))
}
