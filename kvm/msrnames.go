package kvm

import "fmt"

// MSRs that a Linux guest needs or that a VMM must know (Intel SDM volume 4,
// AMD APM volume 2, Documentation/virt/kvm/x86/msr.rst).
const (
	MSRTSC                 = 0x10
	MSRAPICBase            = 0x1b
	MSRFeatureControl      = 0x3a
	MSRTSCAdjust           = 0x3b
	MSRSpecCtrl            = 0x48
	MSRBiosSignID          = 0x8b
	MSRPlatformInfo        = 0xce
	MSRMTRRCap             = 0xfe
	MSRArchCapabilities    = 0x10a
	MSRTSXCtrl             = 0x122
	MSRMiscFeaturesEnables = 0x140
	MSRSysenterCS          = 0x174
	MSRSysenterESP         = 0x175
	MSRSysenterEIP         = 0x176
	MSRMCGCap              = 0x179
	MSRMCGStatus           = 0x17a
	MSRMCGCtl              = 0x17b
	MSRMiscEnable          = 0x1a0
	MSRPAT                 = 0x277
	MSRMTRRDefType         = 0x2ff
	MSRMC0Ctl              = 0x400
	MSRTSCDeadline         = 0x6e0
	MSRXSS                 = 0xda0
	MSREFER                = 0xc0000080
	MSRSTAR                = 0xc0000081
	MSRLSTAR               = 0xc0000082
	MSRCSTAR               = 0xc0000083
	MSRSyscallMask         = 0xc0000084
	MSRFSBase              = 0xc0000100
	MSRGSBase              = 0xc0000101
	MSRKernelGSBase        = 0xc0000102
	MSRTSCAux              = 0xc0000103
	MSRVMHSavePA           = 0xc0010117

	MSRKVMWallClock        = 0x11
	MSRKVMSystemTime       = 0x12
	MSRKVMWallClockNew     = 0x4b564d00
	MSRKVMSystemTimeNew    = 0x4b564d01
	MSRKVMAsyncPFEn        = 0x4b564d02
	MSRKVMStealTime        = 0x4b564d03
	MSRKVMPVEOIEn          = 0x4b564d04
	MSRKVMPollControl      = 0x4b564d05
	MSRKVMAsyncPFInt       = 0x4b564d06
	MSRKVMAsyncPFAck       = 0x4b564d07
	MSRKVMMigrationControl = 0x4b564d08
)

// MiscEnableFastString is the bit of MSRMiscEnable that firmware sets: REP
// string instructions are fast.
const MiscEnableFastString = 1 << 0

var msrNames = map[uint32]string{
	MSRTSC:                 "TSC",
	MSRAPICBase:            "APIC_BASE",
	MSRFeatureControl:      "FEATURE_CONTROL",
	MSRTSCAdjust:           "TSC_ADJUST",
	MSRSpecCtrl:            "SPEC_CTRL",
	MSRBiosSignID:          "BIOS_SIGN_ID",
	MSRPlatformInfo:        "PLATFORM_INFO",
	MSRMTRRCap:             "MTRRCAP",
	MSRArchCapabilities:    "ARCH_CAPABILITIES",
	MSRTSXCtrl:             "TSX_CTRL",
	MSRMiscFeaturesEnables: "MISC_FEATURES_ENABLES",
	MSRSysenterCS:          "SYSENTER_CS",
	MSRSysenterESP:         "SYSENTER_ESP",
	MSRSysenterEIP:         "SYSENTER_EIP",
	MSRMCGCap:              "MCG_CAP",
	MSRMCGStatus:           "MCG_STATUS",
	MSRMCGCtl:              "MCG_CTL",
	MSRMiscEnable:          "MISC_ENABLE",
	MSRPAT:                 "PAT",
	MSRMTRRDefType:         "MTRR_DEF_TYPE",
	MSRMC0Ctl:              "MC0_CTL",
	MSRTSCDeadline:         "TSC_DEADLINE",
	MSRXSS:                 "XSS",
	MSREFER:                "EFER",
	MSRSTAR:                "STAR",
	MSRLSTAR:               "LSTAR",
	MSRCSTAR:               "CSTAR",
	MSRSyscallMask:         "SYSCALL_MASK",
	MSRFSBase:              "FS_BASE",
	MSRGSBase:              "GS_BASE",
	MSRKernelGSBase:        "KERNEL_GS_BASE",
	MSRTSCAux:              "TSC_AUX",
	MSRVMHSavePA:           "VM_HSAVE_PA",
	MSRKVMWallClock:        "KVM_WALL_CLOCK",
	MSRKVMSystemTime:       "KVM_SYSTEM_TIME",
	MSRKVMWallClockNew:     "KVM_WALL_CLOCK_NEW",
	MSRKVMSystemTimeNew:    "KVM_SYSTEM_TIME_NEW",
	MSRKVMAsyncPFEn:        "KVM_ASYNC_PF_EN",
	MSRKVMStealTime:        "KVM_STEAL_TIME",
	MSRKVMPVEOIEn:          "KVM_PV_EOI_EN",
	MSRKVMPollControl:      "KVM_POLL_CONTROL",
	MSRKVMAsyncPFInt:       "KVM_ASYNC_PF_INT",
	MSRKVMAsyncPFAck:       "KVM_ASYNC_PF_ACK",
	MSRKVMMigrationControl: "KVM_MIGRATION_CONTROL",
}

// MSRName returns the number of an MSR with its name, if this package knows
// it, for messages.
func MSRName(index uint32) string {
	if n, ok := msrNames[index]; ok {
		return fmt.Sprintf("MSR %#x (%s)", index, n)
	}
	return fmt.Sprintf("MSR %#x", index)
}
