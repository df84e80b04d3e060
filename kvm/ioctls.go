package kvm

// The ioctls this package makes, by the descriptor they go to. Numbers derive
// from the argument's type; TestABI compares them with the kernel's headers.
var (
	// /dev/kvm
	reqGetAPIVersion          = ion(0x00, "KVM_GET_API_VERSION")
	reqCreateVM               = ion(0x01, "KVM_CREATE_VM")
	reqGetMSRIndexList        = iowr[msrListHeader](0x02, "KVM_GET_MSR_INDEX_LIST")
	reqCheckExtension         = ion(0x03, "KVM_CHECK_EXTENSION") // also on a VM
	reqGetVCPUMmapSize        = ion(0x04, "KVM_GET_VCPU_MMAP_SIZE")
	reqGetSupportedCPUID      = iowr[cpuidHeader](0x05, "KVM_GET_SUPPORTED_CPUID")
	reqGetEmulatedCPUID       = iowr[cpuidHeader](0x09, "KVM_GET_EMULATED_CPUID")
	reqGetMSRFeatureIndexList = iowr[msrListHeader](0x0a, "KVM_GET_MSR_FEATURE_INDEX_LIST")

	// VM
	reqCreateVCPU          = ion(0x41, "KVM_CREATE_VCPU")
	reqGetDirtyLog         = iow[dirtyLog](0x42, "KVM_GET_DIRTY_LOG")
	reqSetUserMemoryRegion = iow[UserMemoryRegion](0x46, "KVM_SET_USER_MEMORY_REGION")
	reqSetTSSAddr          = ion(0x47, "KVM_SET_TSS_ADDR")
	reqSetIdentityMapAddr  = iow[uint64](0x48, "KVM_SET_IDENTITY_MAP_ADDR")
	reqCreateIRQChip       = ion(0x60, "KVM_CREATE_IRQCHIP")
	reqIRQLine             = iow[irqLevel](0x61, "KVM_IRQ_LINE").briefly()
	reqGetIRQChip          = iowr[irqChip](0x62, "KVM_GET_IRQCHIP")
	reqSetIRQChip          = ior[irqChip](0x63, "KVM_SET_IRQCHIP") // sic: the header says _IOR
	reqSetGSIRouting       = iow[irqRoutingHeader](0x6a, "KVM_SET_GSI_ROUTING")
	reqReinjectControl     = ion(0x71, "KVM_REINJECT_CONTROL")
	reqIRQFD               = iow[irqFD](0x76, "KVM_IRQFD")
	reqCreatePIT2          = iow[pitConfig](0x77, "KVM_CREATE_PIT2")
	reqSetBootCPUID        = ion(0x78, "KVM_SET_BOOT_CPU_ID")
	reqIOEventFD           = iow[ioEventFD](0x79, "KVM_IOEVENTFD")
	reqSetClock            = iow[ClockData](0x7b, "KVM_SET_CLOCK")
	reqGetClock            = ior[ClockData](0x7c, "KVM_GET_CLOCK")
	reqGetPIT2             = ior[PITState2](0x9f, "KVM_GET_PIT2")
	reqSetPIT2             = iow[PITState2](0xa0, "KVM_SET_PIT2")
	reqSignalMSI           = iow[msi](0xa5, "KVM_SIGNAL_MSI").briefly()
	reqClearDirtyLog       = iowr[clearDirtyLog](0xc0, "KVM_CLEAR_DIRTY_LOG")
	reqSetMSRFilter        = iow[msrFilter](0xc6, "KVM_X86_SET_MSR_FILTER")
	reqResetDirtyRings     = ion(0xc7, "KVM_RESET_DIRTY_RINGS")
	reqCreateDevice        = iowr[createDevice](0xe0, "KVM_CREATE_DEVICE")

	// VM and vCPU
	reqSetTSCKHz  = ion(0xa2, "KVM_SET_TSC_KHZ")
	reqGetTSCKHz  = ion(0xa3, "KVM_GET_TSC_KHZ")
	reqEnableCap  = iow[enableCap](0xa3, "KVM_ENABLE_CAP")
	reqGetStatsFD = ion(0xce, "KVM_GET_STATS_FD")

	// vCPU
	reqRun            = ion(0x80, "KVM_RUN").returning(eintrReturn)
	reqGetRegs        = ior[Regs](0x81, "KVM_GET_REGS")
	reqSetRegs        = iow[Regs](0x82, "KVM_SET_REGS")
	reqGetSregs       = ior[Sregs](0x83, "KVM_GET_SREGS")
	reqSetSregs       = iow[Sregs](0x84, "KVM_SET_SREGS")
	reqTranslate      = iowr[Translation](0x85, "KVM_TRANSLATE")
	reqInterrupt      = iow[interrupt](0x86, "KVM_INTERRUPT")
	reqGetMSRs        = iowr[msrsHeader](0x88, "KVM_GET_MSRS") // also on /dev/kvm, for feature MSRs
	reqSetMSRs        = iow[msrsHeader](0x89, "KVM_SET_MSRS")
	reqSetSignalMask  = iow[signalMaskHeader](0x8b, "KVM_SET_SIGNAL_MASK")
	reqGetFPU         = ior[FPU](0x8c, "KVM_GET_FPU")
	reqSetFPU         = iow[FPU](0x8d, "KVM_SET_FPU")
	reqGetLAPIC       = ior[LAPICState](0x8e, "KVM_GET_LAPIC")
	reqSetLAPIC       = iow[LAPICState](0x8f, "KVM_SET_LAPIC")
	reqSetCPUID2      = iow[cpuidHeader](0x90, "KVM_SET_CPUID2")
	reqGetCPUID2      = iowr[cpuidHeader](0x91, "KVM_GET_CPUID2")
	reqGetMPState     = ior[mpState](0x98, "KVM_GET_MP_STATE")
	reqSetMPState     = iow[mpState](0x99, "KVM_SET_MP_STATE")
	reqNMI            = ion(0x9a, "KVM_NMI")
	reqSetGuestDebug  = iow[GuestDebug](0x9b, "KVM_SET_GUEST_DEBUG")
	reqSetupMCE       = iow[uint64](0x9c, "KVM_X86_SETUP_MCE")
	reqGetMCECap      = ior[uint64](0x9d, "KVM_X86_GET_MCE_CAP_SUPPORTED") // on /dev/kvm
	reqGetVCPUEvents  = ior[VCPUEvents](0x9f, "KVM_GET_VCPU_EVENTS")
	reqSetVCPUEvents  = iow[VCPUEvents](0xa0, "KVM_SET_VCPU_EVENTS")
	reqGetDebugRegs   = ior[DebugRegs](0xa1, "KVM_GET_DEBUGREGS")
	reqSetDebugRegs   = iow[DebugRegs](0xa2, "KVM_SET_DEBUGREGS")
	reqGetXSave       = ior[xsave](0xa4, "KVM_GET_XSAVE")
	reqSetXSave       = iow[xsave](0xa5, "KVM_SET_XSAVE")
	reqGetXCRs        = ior[XCRs](0xa6, "KVM_GET_XCRS")
	reqSetXCRs        = iow[XCRs](0xa7, "KVM_SET_XCRS")
	reqKVMClockCtrl   = ion(0xad, "KVM_KVMCLOCK_CTRL")
	reqGetSregs2      = ior[Sregs2](0xcc, "KVM_GET_SREGS2")
	reqSetSregs2      = iow[Sregs2](0xcd, "KVM_SET_SREGS2")
	reqGetXSave2      = ior[xsave](0xcf, "KVM_GET_XSAVE2")
	reqPreFaultMemory = iowr[PreFaultMemory](0xd5, "KVM_PRE_FAULT_MEMORY") // Linux 6.11, api.rst 4.143

	// devices, /dev/kvm and vCPUs
	reqSetDeviceAttr = iow[deviceAttr](0xe1, "KVM_SET_DEVICE_ATTR")
	reqGetDeviceAttr = iow[deviceAttr](0xe2, "KVM_GET_DEVICE_ATTR")
	reqHasDeviceAttr = iow[deviceAttr](0xe3, "KVM_HAS_DEVICE_ATTR")
)
