package kvm

// Arguments of CapX2APICAPI, for VM.EnableCap.
const (
	X2APICUse32BitIDs           = 1 << 0 // KVM_X2APIC_API_USE_32BIT_IDS: MSI routes and LAPIC state carry ids above 254
	X2APICDisableBroadcastQuirk = 1 << 1 // KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: 0xff is an id like others
)

// Arguments of CapX86DisableExits, for VM.EnableCap.
const (
	DisableExitsMWAIT  = 1 << 0 // KVM_X86_DISABLE_EXITS_MWAIT
	DisableExitsHLT    = 1 << 1 // KVM_X86_DISABLE_EXITS_HLT
	DisableExitsPAUSE  = 1 << 2 // KVM_X86_DISABLE_EXITS_PAUSE
	DisableExitsCState = 1 << 3 // KVM_X86_DISABLE_EXITS_CSTATE
)

// Arguments of CapDisableQuirks2, for VM.EnableCap.
const (
	QuirkLINT0Reenabled     = 1 << 0 // KVM_X86_QUIRK_LINT0_REENABLED
	QuirkCDNWCleared        = 1 << 1 // KVM_X86_QUIRK_CD_NW_CLEARED
	QuirkLAPICMMIOHole      = 1 << 2 // KVM_X86_QUIRK_LAPIC_MMIO_HOLE
	QuirkOut7EIncRIP        = 1 << 3 // KVM_X86_QUIRK_OUT_7E_INC_RIP
	QuirkMiscEnableNoMWAIT  = 1 << 4 // KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT
	QuirkFixHypercallInsn   = 1 << 5 // KVM_X86_QUIRK_FIX_HYPERCALL_INSN
	QuirkMWAITNeverUDFaults = 1 << 6 // KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS
	BusLockDetectionOff     = 1 << 0 // KVM_BUS_LOCK_DETECTION_OFF, of CapX86BusLockExit
	BusLockDetectionExit    = 1 << 1 // KVM_BUS_LOCK_DETECTION_EXIT, of CapX86BusLockExit
	NotifyVMExitEnabled     = 1 << 0 // KVM_X86_NOTIFY_VMEXIT_ENABLED, of CapX86NotifyVMExit
	NotifyVMExitUser        = 1 << 1 // KVM_X86_NOTIFY_VMEXIT_USER, of CapX86NotifyVMExit
	PMUCapDisable           = 1 << 0 // KVM_PMU_CAP_DISABLE, of CapPMUCapability
)

// CPUID leaves and feature bits of the paravirtual interface (asm/kvm_para.h,
// Documentation/virt/kvm/x86/cpuid.rst).
const (
	CPUIDSignature = 0x40000000 // KVM_CPUID_SIGNATURE: "KVMKVMKVM" in EBX, ECX, EDX
	CPUIDFeatures  = 0x40000001 // KVM_CPUID_FEATURES: FeatureClockSource ... in EAX

	FeatureClockSource       = 0  // KVM_FEATURE_CLOCKSOURCE
	FeatureNOPIODelay        = 1  // KVM_FEATURE_NOP_IO_DELAY
	FeatureClockSource2      = 3  // KVM_FEATURE_CLOCKSOURCE2
	FeatureAsyncPF           = 4  // KVM_FEATURE_ASYNC_PF
	FeatureStealTime         = 5  // KVM_FEATURE_STEAL_TIME
	FeaturePVEOI             = 6  // KVM_FEATURE_PV_EOI
	FeaturePVUnhalt          = 7  // KVM_FEATURE_PV_UNHALT
	FeaturePVTLBFlush        = 9  // KVM_FEATURE_PV_TLB_FLUSH
	FeatureAsyncPFVMExit     = 10 // KVM_FEATURE_ASYNC_PF_VMEXIT
	FeaturePVSendIPI         = 11 // KVM_FEATURE_PV_SEND_IPI
	FeaturePollControl       = 12 // KVM_FEATURE_POLL_CONTROL
	FeaturePVSchedYield      = 13 // KVM_FEATURE_PV_SCHED_YIELD
	FeatureAsyncPFInt        = 14 // KVM_FEATURE_ASYNC_PF_INT
	FeatureMSIExtDestID      = 15 // KVM_FEATURE_MSI_EXT_DEST_ID
	FeatureClockSourceStable = 24 // KVM_FEATURE_CLOCKSOURCE_STABLE_BIT
)
