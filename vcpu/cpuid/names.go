package cpuid

import "fmt"

// word is a register that is a set of features.
type word struct {
	leaf, subleaf uint32
	reg           register
}

// String is the word's name in Traits and plans.
func (w word) String() string {
	return fmt.Sprintf("%x.%x.%s", w.leaf, w.subleaf, [...]string{"eax", "ebx", "ecx", "edx"}[w.reg])
}

// The words that models and names are about.
var (
	w1c   = word{0x1, 0, ecx}
	w1d   = word{0x1, 0, edx}
	w7b   = word{0x7, 0, ebx}
	w7c   = word{0x7, 0, ecx}
	w7d   = word{0x7, 0, edx}
	w71a  = word{0x7, 1, eax}
	w72d  = word{0x7, 2, edx}
	wXCR0 = word{0xd, 0, eax}
	wXS   = word{0xd, 1, eax}
	wKVM  = word{0x4000_0001, 0, eax}
	wX1c  = word{0x8000_0001, 0, ecx}
	wX1d  = word{0x8000_0001, 0, edx}
	wX7d  = word{0x8000_0007, 0, edx}
	wX8b  = word{0x8000_0008, 0, ebx}
	wX21a = word{0x8000_0021, 0, eax}
)

// names are what the manuals call the bits, from bit 0 on; "" has no name worth
// telling.
var names = map[string][]string{
	w1c.String(): {
		"SSE3", "PCLMULQDQ", "DTES64", "MONITOR", "DS-CPL", "VMX", "SMX", "EIST", "TM2", "SSSE3", "CNXT-ID", "SDBG", "FMA", "CMPXCHG16B", "xTPR", "PDCM",
		"", "PCID", "DCA", "SSE4.1", "SSE4.2", "x2APIC", "MOVBE", "POPCNT", "TSC-Deadline", "AES", "XSAVE", "OSXSAVE", "AVX", "F16C", "RDRAND", "HYPERVISOR",
	},
	w1d.String(): {
		"FPU", "VME", "DE", "PSE", "TSC", "MSR", "PAE", "MCE", "CX8", "APIC", "", "SEP", "MTRR", "PGE", "MCA", "CMOV",
		"PAT", "PSE-36", "PSN", "CLFSH", "", "DS", "ACPI", "MMX", "FXSR", "SSE", "SSE2", "SS", "HTT", "TM", "", "PBE",
	},
	w7b.String(): {
		"FSGSBASE", "TSC_ADJUST", "SGX", "BMI1", "HLE", "AVX2", "FDP_EXCPTN_ONLY", "SMEP", "BMI2", "ERMS", "INVPCID", "RTM", "PQM", "FCS/FDS", "MPX", "PQE",
		"AVX512F", "AVX512DQ", "RDSEED", "ADX", "SMAP", "AVX512_IFMA", "", "CLFLUSHOPT", "CLWB", "PT", "AVX512PF", "AVX512ER", "AVX512CD", "SHA", "AVX512BW", "AVX512VL",
	},
	w7c.String(): {
		"PREFETCHWT1", "AVX512_VBMI", "UMIP", "PKU", "OSPKE", "WAITPKG", "AVX512_VBMI2", "CET_SS", "GFNI", "VAES", "VPCLMULQDQ", "AVX512_VNNI", "AVX512_BITALG", "TME", "AVX512_VPOPCNTDQ", "",
		"LA57", "", "", "", "", "", "RDPID", "KL", "BUS_LOCK_DETECT", "CLDEMOTE", "", "MOVDIRI", "MOVDIR64B", "ENQCMD", "SGX_LC", "PKS",
	},
	w7d.String(): {
		"", "SGX-KEYS", "AVX512_4VNNIW", "AVX512_4FMAPS", "FSRM", "UINTR", "", "", "AVX512_VP2INTERSECT", "SRBDS_CTRL", "MD_CLEAR", "RTM_ALWAYS_ABORT", "", "RTM_FORCE_ABORT", "SERIALIZE", "HYBRID",
		"TSXLDTRK", "", "PCONFIG", "ARCH_LBR", "CET_IBT", "", "AMX-BF16", "AVX512_FP16", "AMX-TILE", "AMX-INT8", "IBRS/IBPB", "STIBP", "L1D_FLUSH", "ARCH_CAPABILITIES", "CORE_CAPABILITIES", "SSBD",
	},
	w71a.String(): {"SHA512", "SM3", "SM4", "RAO-INT", "AVX-VNNI", "AVX512_BF16", "LASS", "CMPCCXADD", "", "", "FZRM", "FSRS", "FSRCS", "", "", "", "", "FRED", "LKGS", "WRMSRNS", "", "AMX-FP16", "HRESET", "AVX-IFMA"},
	w72d.String(): {"PSFD", "IPRED_CTRL", "RRSBA_CTRL", "DDPD_U", "BHI_CTRL", "MCDT_NO"},
	wXCR0.String(): {
		"x87 state", "SSE state", "AVX state", "MPX bounds", "MPX configuration", "AVX-512 opmask", "AVX-512 ZMM", "AVX-512 high ZMM", "PT state", "PKRU state",
		"", "", "", "", "", "", "", "AMX tile configuration", "AMX tile data",
	},
	wXS.String(): {"XSAVEOPT", "XSAVEC", "XGETBV(1)", "XSAVES", "XFD"},
	wKVM.String(): {
		"KVM clock (old)", "KVM no I/O delay", "KVM MMU op", "KVM clock", "KVM async page faults", "KVM steal time", "KVM PV EOI", "KVM PV unhalt", "", "KVM PV TLB flush", "KVM async page faults as #VMEXIT",
		"KVM PV send IPI", "KVM poll control", "KVM PV sched yield", "KVM async page faults by interrupt", "KVM extended MSI destinations", "KVM map GPA range", "KVM migration control",
		"", "", "", "", "", "", "KVM stable clock",
	},
	wX1c.String(): {
		"LAHF", "CmpLegacy", "SVM", "ExtApicSpace", "CR8", "LZCNT", "SSE4A", "MISALIGNSSE", "3DNOWPREFETCH", "OSVW", "IBS", "XOP", "SKINIT", "WDT", "", "LWP",
		"FMA4", "TCE", "", "", "", "TBM", "TOPOEXT", "PERFCTR_CORE", "PERFCTR_NB", "", "BPEXT", "", "PERFCTR_LLC", "MWAITX",
	},
	wX1d.String(): {
		"", "", "", "", "", "", "", "", "", "", "", "SYSCALL", "", "", "", "", "", "", "", "", "NX", "", "MMXEXT", "", "", "FFXSR", "PDPE1GB", "RDTSCP", "", "LM",
	},
	wX7d.String(): {"", "", "", "", "", "", "", "", "INVARIANT_TSC"},
	wX8b.String(): {
		"CLZERO", "INST_RETIRED", "XSAVEERPTR", "INVLPGB", "RDPRU", "", "", "", "", "WBNOINVD", "", "", "IBPB", "", "IBRS", "STIBP",
		"IBRS_ALWAYS_ON", "STIBP_ALWAYS_ON", "IBRS_PREFERRED", "IBRS_SAME_MODE", "EFER_LMSLE_MBZ", "", "", "PPIN", "SSBD", "VIRT_SSBD", "SSB_NO", "CPPC", "PSFD", "BTC_NO", "IBPB_RET",
	},
	wX21a.String(): {
		"NO_NESTED_DATA_BP", "FSGS_NON_SERIALIZING", "LFENCE_SERIALIZING", "SMM_PGCFG_LOCK", "", "", "NULL_SEL_CLR_BASE", "UPPER_ADDR_IGNORE", "AUTO_IBRS", "NO_SMM_CTL_MSR",
		"", "", "", "", "", "", "", "CPUID_USER_DIS", "", "", "", "", "", "", "", "", "", "SBPB", "IBPB_BRTYPE", "SRSO_NO",
	},
}

// BitName returns what the manuals call bit n of a word of Traits, and the word
// and the number where they have no name, or none that is known here.
func BitName(word string, n int) string {
	if list := names[word]; n >= 0 && n < len(list) && list[n] != "" {
		return list[n]
	}
	return fmt.Sprintf("CPUID %s bit %d", word, n)
}
