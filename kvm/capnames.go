package kvm

import "fmt"

// Cap is a KVM capability, KVM_CAP_*: something a host's KVM may or may not
// have. What CheckExtension returns for one is 0 for no, else 1 or the value
// in its comment.
type Cap uint32

// Capabilities of x86 hosts, up to Linux 6.1 (checked against its headers).
const (
	CapIRQChip                  Cap = 0   // KVM_CAP_IRQCHIP
	CapHLT                      Cap = 1   // KVM_CAP_HLT
	CapMMUShadowCacheControl    Cap = 2   // KVM_CAP_MMU_SHADOW_CACHE_CONTROL
	CapUserMemory               Cap = 3   // KVM_CAP_USER_MEMORY
	CapSetTSSAddr               Cap = 4   // KVM_CAP_SET_TSS_ADDR
	CapExtCPUID                 Cap = 7   // KVM_CAP_EXT_CPUID
	CapClockSource              Cap = 8   // KVM_CAP_CLOCKSOURCE
	CapNrVCPUs                  Cap = 9   // KVM_CAP_NR_VCPUS: recommended number of vCPUs
	CapNrMemslots               Cap = 10  // KVM_CAP_NR_MEMSLOTS: number of memory slots
	CapPIT                      Cap = 11  // KVM_CAP_PIT
	CapNOPIODelay               Cap = 12  // KVM_CAP_NOP_IO_DELAY
	CapMPState                  Cap = 14  // KVM_CAP_MP_STATE
	CapCoalescedMMIO            Cap = 15  // KVM_CAP_COALESCED_MMIO: page offset of the ring
	CapSyncMMU                  Cap = 16  // KVM_CAP_SYNC_MMU
	CapDestroyMemoryRegionWorks Cap = 21  // KVM_CAP_DESTROY_MEMORY_REGION_WORKS
	CapUserNMI                  Cap = 22  // KVM_CAP_USER_NMI
	CapSetGuestDebug            Cap = 23  // KVM_CAP_SET_GUEST_DEBUG
	CapReinjectControl          Cap = 24  // KVM_CAP_REINJECT_CONTROL
	CapIRQRouting               Cap = 25  // KVM_CAP_IRQ_ROUTING: number of routes
	CapIRQInjectStatus          Cap = 26  // KVM_CAP_IRQ_INJECT_STATUS
	CapJoinMemoryRegionsWorks   Cap = 30  // KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
	CapMCE                      Cap = 31  // KVM_CAP_MCE: number of machine check banks
	CapIRQFD                    Cap = 32  // KVM_CAP_IRQFD
	CapPIT2                     Cap = 33  // KVM_CAP_PIT2
	CapSetBootCPUID             Cap = 34  // KVM_CAP_SET_BOOT_CPU_ID
	CapPITState2                Cap = 35  // KVM_CAP_PIT_STATE2
	CapIOEventFD                Cap = 36  // KVM_CAP_IOEVENTFD
	CapSetIdentityMapAddr       Cap = 37  // KVM_CAP_SET_IDENTITY_MAP_ADDR
	CapAdjustClock              Cap = 39  // KVM_CAP_ADJUST_CLOCK: flags of ClockData
	CapInternalErrorData        Cap = 40  // KVM_CAP_INTERNAL_ERROR_DATA
	CapVCPUEvents               Cap = 41  // KVM_CAP_VCPU_EVENTS
	CapIntrShadow               Cap = 49  // KVM_CAP_INTR_SHADOW
	CapDebugRegs                Cap = 50  // KVM_CAP_DEBUGREGS
	CapX86RobustSingleStep      Cap = 51  // KVM_CAP_X86_ROBUST_SINGLESTEP
	CapEnableCap                Cap = 54  // KVM_CAP_ENABLE_CAP
	CapXSave                    Cap = 55  // KVM_CAP_XSAVE
	CapXCRs                     Cap = 56  // KVM_CAP_XCRS
	CapAsyncPF                  Cap = 59  // KVM_CAP_ASYNC_PF
	CapTSCControl               Cap = 60  // KVM_CAP_TSC_CONTROL
	CapGetTSCKHz                Cap = 61  // KVM_CAP_GET_TSC_KHZ
	CapMaxVCPUs                 Cap = 66  // KVM_CAP_MAX_VCPUS: most vCPUs a VM can have
	CapTSCDeadlineTimer         Cap = 72  // KVM_CAP_TSC_DEADLINE_TIMER
	CapSyncRegs                 Cap = 74  // KVM_CAP_SYNC_REGS
	CapKVMClockCtrl             Cap = 76  // KVM_CAP_KVMCLOCK_CTRL
	CapSignalMSI                Cap = 77  // KVM_CAP_SIGNAL_MSI
	CapReadonlyMem              Cap = 81  // KVM_CAP_READONLY_MEM
	CapIRQFDResample            Cap = 82  // KVM_CAP_IRQFD_RESAMPLE
	CapDeviceCtrl               Cap = 89  // KVM_CAP_DEVICE_CTRL
	CapExtEmulCPUID             Cap = 95  // KVM_CAP_EXT_EMUL_CPUID
	CapIOAPICPolarityIgnored    Cap = 97  // KVM_CAP_IOAPIC_POLARITY_IGNORED
	CapEnableCapVM              Cap = 98  // KVM_CAP_ENABLE_CAP_VM
	CapIOEventFDNoLength        Cap = 100 // KVM_CAP_IOEVENTFD_NO_LENGTH
	CapVMAttributes             Cap = 101 // KVM_CAP_VM_ATTRIBUTES
	CapCheckExtensionVM         Cap = 105 // KVM_CAP_CHECK_EXTENSION_VM
	CapDisableQuirks            Cap = 116 // KVM_CAP_DISABLE_QUIRKS
	CapX86SMM                   Cap = 117 // KVM_CAP_X86_SMM
	CapGuestDebugHWBPs          Cap = 119 // KVM_CAP_GUEST_DEBUG_HW_BPS
	CapGuestDebugHWWPs          Cap = 120 // KVM_CAP_GUEST_DEBUG_HW_WPS
	CapSplitIRQChip             Cap = 121 // KVM_CAP_SPLIT_IRQCHIP
	CapIOEventFDAnyLength       Cap = 122 // KVM_CAP_IOEVENTFD_ANY_LENGTH
	CapVCPUAttributes           Cap = 127 // KVM_CAP_VCPU_ATTRIBUTES
	CapMaxVCPUID                Cap = 128 // KVM_CAP_MAX_VCPU_ID: vCPU ids are below this
	CapX2APICAPI                Cap = 129 // KVM_CAP_X2APIC_API
	CapImmediateExit            Cap = 136 // KVM_CAP_IMMEDIATE_EXIT
	CapX86DisableExits          Cap = 143 // KVM_CAP_X86_DISABLE_EXITS
	CapGetMSRFeatures           Cap = 153 // KVM_CAP_GET_MSR_FEATURES
	CapNestedState              Cap = 157 // KVM_CAP_NESTED_STATE
	CapMSRPlatformInfo          Cap = 159 // KVM_CAP_MSR_PLATFORM_INFO
	CapCoalescedPIO             Cap = 162 // KVM_CAP_COALESCED_PIO
	CapExceptionPayload         Cap = 164 // KVM_CAP_EXCEPTION_PAYLOAD
	CapManualDirtyLogProtect2   Cap = 168 // KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
	CapPMUEventFilter           Cap = 173 // KVM_CAP_PMU_EVENT_FILTER
	CapHaltPoll                 Cap = 182 // KVM_CAP_HALT_POLL
	CapAsyncPFInt               Cap = 183 // KVM_CAP_ASYNC_PF_INT
	CapSmallerMaxPhyAddr        Cap = 185 // KVM_CAP_SMALLER_MAXPHYADDR
	CapStealTime                Cap = 187 // KVM_CAP_STEAL_TIME
	CapX86UserSpaceMSR          Cap = 188 // KVM_CAP_X86_USER_SPACE_MSR
	CapX86MSRFilter             Cap = 189 // KVM_CAP_X86_MSR_FILTER
	CapEnforcePVFeatureCPUID    Cap = 190 // KVM_CAP_ENFORCE_PV_FEATURE_CPUID
	CapDirtyLogRing             Cap = 192 // KVM_CAP_DIRTY_LOG_RING: largest ring in bytes
	CapX86BusLockExit           Cap = 193 // KVM_CAP_X86_BUS_LOCK_EXIT
	CapSetGuestDebug2           Cap = 195 // KVM_CAP_SET_GUEST_DEBUG2
	CapPTPKVM                   Cap = 198 // KVM_CAP_PTP_KVM
	CapSregs2                   Cap = 200 // KVM_CAP_SREGS2
	CapExitHypercall            Cap = 201 // KVM_CAP_EXIT_HYPERCALL
	CapBinaryStatsFD            Cap = 203 // KVM_CAP_BINARY_STATS_FD
	CapExitOnEmulationFailure   Cap = 204 // KVM_CAP_EXIT_ON_EMULATION_FAILURE
	CapVMGPABits                Cap = 207 // KVM_CAP_VM_GPA_BITS
	CapXSave2                   Cap = 208 // KVM_CAP_XSAVE2: size of the XSAVE area in bytes
	CapSysAttributes            Cap = 209 // KVM_CAP_SYS_ATTRIBUTES
	CapPMUCapability            Cap = 212 // KVM_CAP_PMU_CAPABILITY
	CapDisableQuirks2           Cap = 213 // KVM_CAP_DISABLE_QUIRKS2
	CapVMTSCControl             Cap = 214 // KVM_CAP_VM_TSC_CONTROL
	CapSystemEventData          Cap = 215 // KVM_CAP_SYSTEM_EVENT_DATA
	CapX86TripleFaultEvent      Cap = 218 // KVM_CAP_X86_TRIPLE_FAULT_EVENT
	CapX86NotifyVMExit          Cap = 219 // KVM_CAP_X86_NOTIFY_VMEXIT
	CapVMDisableNXHugePages     Cap = 220 // KVM_CAP_VM_DISABLE_NX_HUGE_PAGES
	CapDirtyLogRingAcqRel       Cap = 223 // KVM_CAP_DIRTY_LOG_RING_ACQ_REL: largest ring in bytes
)

// Newer capabilities: Linux version of include/uapi/linux/kvm.h that has them.
const (
	CapPMUEventMaskedEvents Cap = 226 // KVM_CAP_PMU_EVENT_MASKED_EVENTS, Linux 6.3
	CapUserMemory2          Cap = 231 // KVM_CAP_USER_MEMORY2, Linux 6.8
	CapMemoryFaultInfo      Cap = 232 // KVM_CAP_MEMORY_FAULT_INFO, Linux 6.8
	CapMemoryAttributes     Cap = 233 // KVM_CAP_MEMORY_ATTRIBUTES, Linux 6.8
	CapGuestMemfd           Cap = 234 // KVM_CAP_GUEST_MEMFD, Linux 6.8
	CapVMTypes              Cap = 235 // KVM_CAP_VM_TYPES, Linux 6.8
	CapPreFaultMemory       Cap = 236 // KVM_CAP_PRE_FAULT_MEMORY, Linux 6.11
	CapX86APICBusCyclesNS   Cap = 237 // KVM_CAP_X86_APIC_BUS_CYCLES_NS, Linux 6.11
	CapX86GuestMode         Cap = 238 // KVM_CAP_X86_GUEST_MODE, Linux 6.14
	CapGuestMemfdFlags      Cap = 244 // KVM_CAP_GUEST_MEMFD_FLAGS, Linux 6.18
)

var capNames = map[Cap]string{
	CapIRQChip:                  "KVM_CAP_IRQCHIP",
	CapHLT:                      "KVM_CAP_HLT",
	CapMMUShadowCacheControl:    "KVM_CAP_MMU_SHADOW_CACHE_CONTROL",
	CapUserMemory:               "KVM_CAP_USER_MEMORY",
	CapSetTSSAddr:               "KVM_CAP_SET_TSS_ADDR",
	CapExtCPUID:                 "KVM_CAP_EXT_CPUID",
	CapClockSource:              "KVM_CAP_CLOCKSOURCE",
	CapNrVCPUs:                  "KVM_CAP_NR_VCPUS",
	CapNrMemslots:               "KVM_CAP_NR_MEMSLOTS",
	CapPIT:                      "KVM_CAP_PIT",
	CapNOPIODelay:               "KVM_CAP_NOP_IO_DELAY",
	CapMPState:                  "KVM_CAP_MP_STATE",
	CapCoalescedMMIO:            "KVM_CAP_COALESCED_MMIO",
	CapSyncMMU:                  "KVM_CAP_SYNC_MMU",
	CapDestroyMemoryRegionWorks: "KVM_CAP_DESTROY_MEMORY_REGION_WORKS",
	CapUserNMI:                  "KVM_CAP_USER_NMI",
	CapSetGuestDebug:            "KVM_CAP_SET_GUEST_DEBUG",
	CapReinjectControl:          "KVM_CAP_REINJECT_CONTROL",
	CapIRQRouting:               "KVM_CAP_IRQ_ROUTING",
	CapIRQInjectStatus:          "KVM_CAP_IRQ_INJECT_STATUS",
	CapJoinMemoryRegionsWorks:   "KVM_CAP_JOIN_MEMORY_REGIONS_WORKS",
	CapMCE:                      "KVM_CAP_MCE",
	CapIRQFD:                    "KVM_CAP_IRQFD",
	CapPIT2:                     "KVM_CAP_PIT2",
	CapSetBootCPUID:             "KVM_CAP_SET_BOOT_CPU_ID",
	CapPITState2:                "KVM_CAP_PIT_STATE2",
	CapIOEventFD:                "KVM_CAP_IOEVENTFD",
	CapSetIdentityMapAddr:       "KVM_CAP_SET_IDENTITY_MAP_ADDR",
	CapAdjustClock:              "KVM_CAP_ADJUST_CLOCK",
	CapInternalErrorData:        "KVM_CAP_INTERNAL_ERROR_DATA",
	CapVCPUEvents:               "KVM_CAP_VCPU_EVENTS",
	CapIntrShadow:               "KVM_CAP_INTR_SHADOW",
	CapDebugRegs:                "KVM_CAP_DEBUGREGS",
	CapX86RobustSingleStep:      "KVM_CAP_X86_ROBUST_SINGLESTEP",
	CapEnableCap:                "KVM_CAP_ENABLE_CAP",
	CapXSave:                    "KVM_CAP_XSAVE",
	CapXCRs:                     "KVM_CAP_XCRS",
	CapAsyncPF:                  "KVM_CAP_ASYNC_PF",
	CapTSCControl:               "KVM_CAP_TSC_CONTROL",
	CapGetTSCKHz:                "KVM_CAP_GET_TSC_KHZ",
	CapMaxVCPUs:                 "KVM_CAP_MAX_VCPUS",
	CapTSCDeadlineTimer:         "KVM_CAP_TSC_DEADLINE_TIMER",
	CapSyncRegs:                 "KVM_CAP_SYNC_REGS",
	CapKVMClockCtrl:             "KVM_CAP_KVMCLOCK_CTRL",
	CapSignalMSI:                "KVM_CAP_SIGNAL_MSI",
	CapReadonlyMem:              "KVM_CAP_READONLY_MEM",
	CapIRQFDResample:            "KVM_CAP_IRQFD_RESAMPLE",
	CapDeviceCtrl:               "KVM_CAP_DEVICE_CTRL",
	CapExtEmulCPUID:             "KVM_CAP_EXT_EMUL_CPUID",
	CapIOAPICPolarityIgnored:    "KVM_CAP_IOAPIC_POLARITY_IGNORED",
	CapEnableCapVM:              "KVM_CAP_ENABLE_CAP_VM",
	CapIOEventFDNoLength:        "KVM_CAP_IOEVENTFD_NO_LENGTH",
	CapVMAttributes:             "KVM_CAP_VM_ATTRIBUTES",
	CapCheckExtensionVM:         "KVM_CAP_CHECK_EXTENSION_VM",
	CapDisableQuirks:            "KVM_CAP_DISABLE_QUIRKS",
	CapX86SMM:                   "KVM_CAP_X86_SMM",
	CapGuestDebugHWBPs:          "KVM_CAP_GUEST_DEBUG_HW_BPS",
	CapGuestDebugHWWPs:          "KVM_CAP_GUEST_DEBUG_HW_WPS",
	CapSplitIRQChip:             "KVM_CAP_SPLIT_IRQCHIP",
	CapIOEventFDAnyLength:       "KVM_CAP_IOEVENTFD_ANY_LENGTH",
	CapVCPUAttributes:           "KVM_CAP_VCPU_ATTRIBUTES",
	CapMaxVCPUID:                "KVM_CAP_MAX_VCPU_ID",
	CapX2APICAPI:                "KVM_CAP_X2APIC_API",
	CapImmediateExit:            "KVM_CAP_IMMEDIATE_EXIT",
	CapX86DisableExits:          "KVM_CAP_X86_DISABLE_EXITS",
	CapGetMSRFeatures:           "KVM_CAP_GET_MSR_FEATURES",
	CapNestedState:              "KVM_CAP_NESTED_STATE",
	CapMSRPlatformInfo:          "KVM_CAP_MSR_PLATFORM_INFO",
	CapCoalescedPIO:             "KVM_CAP_COALESCED_PIO",
	CapExceptionPayload:         "KVM_CAP_EXCEPTION_PAYLOAD",
	CapManualDirtyLogProtect2:   "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
	CapPMUEventFilter:           "KVM_CAP_PMU_EVENT_FILTER",
	CapHaltPoll:                 "KVM_CAP_HALT_POLL",
	CapAsyncPFInt:               "KVM_CAP_ASYNC_PF_INT",
	CapSmallerMaxPhyAddr:        "KVM_CAP_SMALLER_MAXPHYADDR",
	CapStealTime:                "KVM_CAP_STEAL_TIME",
	CapX86UserSpaceMSR:          "KVM_CAP_X86_USER_SPACE_MSR",
	CapX86MSRFilter:             "KVM_CAP_X86_MSR_FILTER",
	CapEnforcePVFeatureCPUID:    "KVM_CAP_ENFORCE_PV_FEATURE_CPUID",
	CapDirtyLogRing:             "KVM_CAP_DIRTY_LOG_RING",
	CapX86BusLockExit:           "KVM_CAP_X86_BUS_LOCK_EXIT",
	CapSetGuestDebug2:           "KVM_CAP_SET_GUEST_DEBUG2",
	CapPTPKVM:                   "KVM_CAP_PTP_KVM",
	CapSregs2:                   "KVM_CAP_SREGS2",
	CapExitHypercall:            "KVM_CAP_EXIT_HYPERCALL",
	CapBinaryStatsFD:            "KVM_CAP_BINARY_STATS_FD",
	CapExitOnEmulationFailure:   "KVM_CAP_EXIT_ON_EMULATION_FAILURE",
	CapVMGPABits:                "KVM_CAP_VM_GPA_BITS",
	CapXSave2:                   "KVM_CAP_XSAVE2",
	CapSysAttributes:            "KVM_CAP_SYS_ATTRIBUTES",
	CapPMUCapability:            "KVM_CAP_PMU_CAPABILITY",
	CapDisableQuirks2:           "KVM_CAP_DISABLE_QUIRKS2",
	CapVMTSCControl:             "KVM_CAP_VM_TSC_CONTROL",
	CapSystemEventData:          "KVM_CAP_SYSTEM_EVENT_DATA",
	CapX86TripleFaultEvent:      "KVM_CAP_X86_TRIPLE_FAULT_EVENT",
	CapX86NotifyVMExit:          "KVM_CAP_X86_NOTIFY_VMEXIT",
	CapVMDisableNXHugePages:     "KVM_CAP_VM_DISABLE_NX_HUGE_PAGES",
	CapDirtyLogRingAcqRel:       "KVM_CAP_DIRTY_LOG_RING_ACQ_REL",
	CapPMUEventMaskedEvents:     "KVM_CAP_PMU_EVENT_MASKED_EVENTS",
	CapUserMemory2:              "KVM_CAP_USER_MEMORY2",
	CapMemoryFaultInfo:          "KVM_CAP_MEMORY_FAULT_INFO",
	CapMemoryAttributes:         "KVM_CAP_MEMORY_ATTRIBUTES",
	CapGuestMemfd:               "KVM_CAP_GUEST_MEMFD",
	CapVMTypes:                  "KVM_CAP_VM_TYPES",
	CapPreFaultMemory:           "KVM_CAP_PRE_FAULT_MEMORY",
	CapX86APICBusCyclesNS:       "KVM_CAP_X86_APIC_BUS_CYCLES_NS",
	CapX86GuestMode:             "KVM_CAP_X86_GUEST_MODE",
	CapGuestMemfdFlags:          "KVM_CAP_GUEST_MEMFD_FLAGS",
}

// String returns the C name.
func (c Cap) String() string {
	if n, ok := capNames[c]; ok {
		return n
	}
	return fmt.Sprintf("KVM_CAP_%d", uint32(c))
}
