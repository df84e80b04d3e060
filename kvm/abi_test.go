package kvm

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata/abi.c and testdata/abi.golden from the kernel's headers")

// abiStruct pairs a Go struct with a C one. fields are the C names of the Go
// fields in order; a Go field named _ is padding and has none. With base set,
// the struct is the member path of the C struct base.
type abiStruct struct {
	c      string
	path   string
	goType reflect.Type
	fields string
	tail   bool // C's struct goes on: a flexible array, or a part that is not mirrored
}

func mirror[T any](c, fields string) abiStruct {
	return abiStruct{c: c, goType: reflect.TypeFor[T](), fields: fields}
}

func exitMirror[T any](path, fields string) abiStruct {
	return abiStruct{c: "kvm_run", path: path, goType: reflect.TypeFor[T](), fields: fields}
}

func (s abiStruct) open() abiStruct { s.tail = true; return s }

const sregsFields = "cs ds es fs gs ss tr ldt gdt idt cr0 cr2 cr3 cr4 cr8 efer apic_base "

var abiStructs = []abiStruct{
	mirror[Regs]("kvm_regs", "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags"),
	mirror[Segment]("kvm_segment", "base limit selector type present dpl db s l g avl unusable padding"),
	mirror[DTable]("kvm_dtable", "base limit padding"),
	mirror[Sregs]("kvm_sregs", sregsFields+"interrupt_bitmap"),
	mirror[Sregs2]("kvm_sregs2", sregsFields+"flags pdptrs"),
	mirror[DebugRegs]("kvm_debugregs", "db dr6 dr7 flags reserved"),
	mirror[FPU]("kvm_fpu", "fpr fcw fsw ftwx pad1 last_opcode last_ip last_dp xmm mxcsr pad2"),
	mirror[xsave]("kvm_xsave", "region").open(),
	mirror[XCR]("kvm_xcr", "xcr reserved value"),
	mirror[XCRs]("kvm_xcrs", "nr_xcrs flags xcrs padding"),
	mirror[enableCap]("kvm_enable_cap", "cap flags args pad"),
	mirror[UserMemoryRegion]("kvm_userspace_memory_region", "slot flags guest_phys_addr memory_size userspace_addr"),
	mirror[interrupt]("kvm_interrupt", "irq"),
	mirror[signalMaskHeader]("kvm_signal_mask", "len").open(),
	mirror[Translation]("kvm_translation", "linear_address physical_address valid writeable usermode pad"),
	mirror[irqLevel]("kvm_irq_level", "irq level"),
	mirror[msi]("kvm_msi", "address_lo address_hi data flags devid pad"),
	mirror[PICState]("kvm_pic_state", "last_irr irr imr isr priority_add irq_base read_reg_select poll special_mask init_state auto_eoi rotate_on_auto_eoi special_fully_nested_mode init4 elcr elcr_mask"),
	mirror[IOAPICState]("kvm_ioapic_state", "base_address ioregsel id irr pad redirtbl"),
	mirror[irqChip]("kvm_irqchip", "chip_id pad chip"),
	mirror[pitConfig]("kvm_pit_config", "flags pad"),
	mirror[PITChannelState]("kvm_pit_channel_state", "count latched_count count_latched status_latched status read_state write_state write_latch rw_mode mode bcd gate count_load_time"),
	mirror[PITState2]("kvm_pit_state2", "channels flags reserved"),
	mirror[irqRoutingHeader]("kvm_irq_routing", "nr flags").open(),
	mirror[IRQRoute]("kvm_irq_routing_entry", "gsi type flags pad u"),
	mirror[irqFD]("kvm_irqfd", "fd gsi flags resamplefd pad"),
	mirror[ioEventFD]("kvm_ioeventfd", "datamatch addr len fd flags pad"),
	mirror[cpuidHeader]("kvm_cpuid2", "nent padding").open(),
	mirror[CPUIDEntry]("kvm_cpuid_entry2", "function index flags eax ebx ecx edx padding"),
	mirror[LAPICState]("kvm_lapic_state", "regs"),
	mirror[msrsHeader]("kvm_msrs", "nmsrs pad").open(),
	mirror[MSREntry]("kvm_msr_entry", "index reserved data"),
	mirror[msrListHeader]("kvm_msr_list", "nmsrs").open(),
	mirror[msrFilterRange]("kvm_msr_filter_range", "flags nmsrs base bitmap"),
	mirror[msrFilter]("kvm_msr_filter", "flags ranges"),
	mirror[VCPUEvents]("kvm_vcpu_events", "exception.injected exception.nr exception.has_error_code exception.pending exception.error_code interrupt.injected interrupt.nr interrupt.soft interrupt.shadow nmi.injected nmi.pending nmi.masked nmi.pad sipi_vector flags smi.smm smi.pending smi.smm_inside_nmi smi.latched_init triple_fault.pending reserved exception_has_payload exception_payload"),
	mirror[mpState]("kvm_mp_state", "mp_state"),
	mirror[ClockData]("kvm_clock_data", "clock flags pad0 realtime host_tsc pad"),
	mirror[GuestDebug]("kvm_guest_debug", "control pad arch"),
	mirror[dirtyLog]("kvm_dirty_log", "slot padding1 dirty_bitmap"),
	mirror[clearDirtyLog]("kvm_clear_dirty_log", "slot num_pages first_page dirty_bitmap"),
	mirror[dirtyGFN]("kvm_dirty_gfn", "flags slot offset"),
	mirror[createDevice]("kvm_create_device", "type fd flags"),
	mirror[deviceAttr]("kvm_device_attr", "flags group attr addr"),
	mirror[DebugExit]("kvm_debug_exit_arch", "exception pad pc dr6 dr7"),
	mirror[statsHeader]("kvm_stats_header", "flags name_size num_desc id_offset desc_offset data_offset"),
	mirror[statsDesc]("kvm_stats_desc", "flags exponent size offset bucket_size").open(),
	// exit begins with the union's first member, padding is the whole of it.
	mirror[runPage]("kvm_run", "request_interrupt_window immediate_exit padding1 exit_reason ready_for_interrupt_injection if_flag flags cr8 apic_base padding").open(),
	exitMirror[rawIO]("io", "direction size port count data_offset"),
	exitMirror[rawMMIO]("mmio", "phys_addr data len is_write"),
	exitMirror[Hypercall]("hypercall", "nr args ret longmode pad"),
	exitMirror[DebugExit]("debug.arch", "exception pad pc dr6 dr7"),
	exitMirror[FailEntry]("fail_entry", "hardware_entry_failure_reason cpu"),
	exitMirror[InternalError]("internal", "suberror ndata data"),
	exitMirror[SystemEvent]("system_event", "type ndata data"),
	exitMirror[MSRExit]("msr", "error pad reason index data"),
}

// exitOffset is where the union of exit data starts in kvm_run.
var exitOffset = func() uintptr {
	f, _ := reflect.TypeFor[runPage]().FieldByName("exit")
	return f.Offset
}()

// layout returns the lines that describe s, as Go sees it.
func (s abiStruct) layout(t *testing.T) []string {
	t.Helper()
	name, base := s.c, uintptr(0)
	if s.path != "" {
		name, base = s.c+"."+s.path, exitOffset
		if s.goType.Size() > 256 {
			t.Errorf("%v: %d bytes do not fit the union of kvm_run", s.goType, s.goType.Size())
		}
	}
	var lines []string
	if s.tail {
		lines = append(lines, fmt.Sprintf("atleast %s %d", name, s.goType.Size()))
	} else {
		lines = append(lines, fmt.Sprintf("size %s %d", name, s.goType.Size()))
	}
	names := strings.Fields(s.fields)
	for f := range s.goType.Fields() {
		if f.Name == "_" {
			continue
		}
		if len(names) == 0 {
			t.Fatalf("%v: no C name for field %s", s.goType, f.Name)
		}
		lines = append(lines, fmt.Sprintf("field %s.%s %d %d", name, names[0], base+f.Offset, f.Type.Size()))
		names = names[1:]
	}
	if len(names) > 0 {
		t.Fatalf("%v: C fields without a Go field: %v", s.goType, names)
	}
	return lines
}

func (s abiStruct) cCode() []string {
	var lines []string
	member := ""
	if s.path != "" {
		member = s.path + "."
		lines = append(lines, fmt.Sprintf("MEMBER_SIZE(%s, %s);", s.c, s.path))
	} else if s.tail {
		lines = append(lines, fmt.Sprintf("ATLEAST(%s, %d);", s.c, s.goType.Size()))
	} else {
		lines = append(lines, fmt.Sprintf("SIZE(%s);", s.c))
	}
	for f := range strings.FieldsSeq(s.fields) {
		lines = append(lines, fmt.Sprintf("FIELD(%s, %s%s);", s.c, member, f))
	}
	return lines
}

// abiArrays are the flexible arrays that follow a header in a fam: each must
// start where the header ends.
var abiArrays = []struct {
	c, member string
	header    uintptr
}{
	{"kvm_cpuid2", "entries", sizeOf[cpuidHeader]()},
	{"kvm_msrs", "entries", sizeOf[msrsHeader]()},
	{"kvm_msr_list", "indices", sizeOf[msrListHeader]()},
	{"kvm_irq_routing", "entries", sizeOf[irqRoutingHeader]()},
	{"kvm_signal_mask", "sigset", sizeOf[signalMaskHeader]()},
	{"kvm_stats_desc", "name", statsDescSize},
	{"kvm_xsave", "extra", sizeOf[xsave]()},
}

// abiConstants are the numbers that are not capabilities, ioctls or exits.
var abiConstants = map[string]uint64{
	"KVM_API_VERSION":                                     APIVersion,
	"KVM_MEM_LOG_DIRTY_PAGES":                             MemLogDirtyPages,
	"KVM_MEM_READONLY":                                    MemReadonly,
	"KVM_IRQCHIP_PIC_MASTER":                              IRQChipPICMaster,
	"KVM_IRQCHIP_PIC_SLAVE":                               IRQChipPICSlave,
	"KVM_IRQCHIP_IOAPIC":                                  IRQChipIOAPIC,
	"KVM_IOAPIC_NUM_PINS":                                 IOAPICPins,
	"KVM_PIT_SPEAKER_DUMMY":                               PITSpeakerDummy,
	"KVM_IRQ_ROUTING_IRQCHIP":                             IRQRoutingIRQChip,
	"KVM_IRQ_ROUTING_MSI":                                 IRQRoutingMSI,
	"KVM_IRQFD_FLAG_DEASSIGN":                             irqFDFlagDeassign,
	"KVM_IRQFD_FLAG_RESAMPLE":                             irqFDFlagResample,
	"KVM_IOEVENTFD_FLAG_DATAMATCH":                        ioEventFDFlagDataMatch,
	"KVM_IOEVENTFD_FLAG_PIO":                              ioEventFDFlagPIO,
	"KVM_IOEVENTFD_FLAG_DEASSIGN":                         ioEventFDFlagDeassign,
	"KVM_CPUID_FLAG_SIGNIFCANT_INDEX":                     CPUIDFlagSignificantIndex,
	"KVM_MSR_FILTER_READ":                                 MSRFilterRead,
	"KVM_MSR_FILTER_WRITE":                                MSRFilterWrite,
	"KVM_MSR_FILTER_DEFAULT_DENY":                         msrFilterDefaultDeny,
	"KVM_VCPUEVENT_VALID_NMI_PENDING":                     VCPUEventValidNMIPending,
	"KVM_VCPUEVENT_VALID_SIPI_VECTOR":                     VCPUEventValidSIPIVector,
	"KVM_VCPUEVENT_VALID_SHADOW":                          VCPUEventValidShadow,
	"KVM_VCPUEVENT_VALID_SMM":                             VCPUEventValidSMM,
	"KVM_VCPUEVENT_VALID_PAYLOAD":                         VCPUEventValidPayload,
	"KVM_VCPUEVENT_VALID_TRIPLE_FAULT":                    VCPUEventValidTripleFault,
	"KVM_MP_STATE_RUNNABLE":                               uint64(MPStateRunnable),
	"KVM_MP_STATE_UNINITIALIZED":                          uint64(MPStateUninitialized),
	"KVM_MP_STATE_INIT_RECEIVED":                          uint64(MPStateInitReceived),
	"KVM_MP_STATE_HALTED":                                 uint64(MPStateHalted),
	"KVM_MP_STATE_SIPI_RECEIVED":                          uint64(MPStateSIPIReceived),
	"KVM_MP_STATE_AP_RESET_HOLD":                          uint64(MPStateAPResetHold),
	"KVM_CLOCK_TSC_STABLE":                                ClockTSCStable,
	"KVM_CLOCK_REALTIME":                                  ClockRealtime,
	"KVM_CLOCK_HOST_TSC":                                  ClockHostTSC,
	"KVM_GUESTDBG_ENABLE":                                 GuestDebugEnable,
	"KVM_GUESTDBG_SINGLESTEP":                             GuestDebugSingleStep,
	"KVM_GUESTDBG_USE_SW_BP":                              GuestDebugUseSWBP,
	"KVM_GUESTDBG_USE_HW_BP":                              GuestDebugUseHWBP,
	"KVM_GUESTDBG_INJECT_DB":                              GuestDebugInjectDB,
	"KVM_GUESTDBG_INJECT_BP":                              GuestDebugInjectBP,
	"KVM_GUESTDBG_BLOCKIRQ":                               GuestDebugBlockIRQ,
	"KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE":                 DirtyLogManualProtect,
	"KVM_DIRTY_LOG_INITIALLY_SET":                         DirtyLogInitiallySet,
	"KVM_DIRTY_GFN_F_DIRTY":                               dirtyGFNDirty,
	"KVM_DIRTY_GFN_F_RESET":                               dirtyGFNReset,
	"KVM_DIRTY_LOG_PAGE_OFFSET":                           dirtyLogPageOffset,
	"KVM_CREATE_DEVICE_TEST":                              createDeviceTest,
	"KVM_DEV_TYPE_VFIO":                                   DeviceTypeVFIO,
	"KVM_VCPU_TSC_CTRL":                                   vcpuTSCCtrl,
	"KVM_VCPU_TSC_OFFSET":                                 vcpuTSCOffset,
	"KVM_SREGS2_FLAGS_PDPTRS_VALID":                       Sregs2FlagPDPTRsValid,
	"KVM_RUN_X86_SMM":                                     runFlagSMM,
	"KVM_EXIT_IO_OUT":                                     exitIOOut,
	"KVM_INTERNAL_ERROR_EMULATION":                        InternalErrorEmulation,
	"KVM_INTERNAL_ERROR_SIMUL_EX":                         InternalErrorSimulEx,
	"KVM_INTERNAL_ERROR_DELIVERY_EV":                      InternalErrorDeliveryEv,
	"KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON":           InternalErrorUnexpectedExitReason,
	"KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES": emulationFlagInstructionBytes,
	"KVM_SYSTEM_EVENT_SHUTDOWN":                           SystemEventShutdown,
	"KVM_SYSTEM_EVENT_RESET":                              SystemEventReset,
	"KVM_SYSTEM_EVENT_CRASH":                              SystemEventCrash,
	"KVM_SYSTEM_EVENT_WAKEUP":                             SystemEventWakeup,
	"KVM_SYSTEM_EVENT_SUSPEND":                            SystemEventSuspend,
	"KVM_SYSTEM_EVENT_SEV_TERM":                           SystemEventSEVTerm,
	"KVM_MSR_EXIT_REASON_INVAL":                           MSRExitReasonInval,
	"KVM_MSR_EXIT_REASON_UNKNOWN":                         MSRExitReasonUnknown,
	"KVM_MSR_EXIT_REASON_FILTER":                          MSRExitReasonFilter,
	"KVM_NOTIFY_CONTEXT_INVALID":                          NotifyContextInvalid,
	"KVM_X2APIC_API_USE_32BIT_IDS":                        X2APICUse32BitIDs,
	"KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK":              X2APICDisableBroadcastQuirk,
	"KVM_X86_DISABLE_EXITS_MWAIT":                         DisableExitsMWAIT,
	"KVM_X86_DISABLE_EXITS_HLT":                           DisableExitsHLT,
	"KVM_X86_DISABLE_EXITS_PAUSE":                         DisableExitsPAUSE,
	"KVM_X86_DISABLE_EXITS_CSTATE":                        DisableExitsCState,
	"KVM_X86_QUIRK_LINT0_REENABLED":                       QuirkLINT0Reenabled,
	"KVM_X86_QUIRK_CD_NW_CLEARED":                         QuirkCDNWCleared,
	"KVM_X86_QUIRK_LAPIC_MMIO_HOLE":                       QuirkLAPICMMIOHole,
	"KVM_X86_QUIRK_OUT_7E_INC_RIP":                        QuirkOut7EIncRIP,
	"KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT":                  QuirkMiscEnableNoMWAIT,
	"KVM_X86_QUIRK_FIX_HYPERCALL_INSN":                    QuirkFixHypercallInsn,
	"KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS":                 QuirkMWAITNeverUDFaults,
	"KVM_BUS_LOCK_DETECTION_OFF":                          BusLockDetectionOff,
	"KVM_BUS_LOCK_DETECTION_EXIT":                         BusLockDetectionExit,
	"KVM_X86_NOTIFY_VMEXIT_ENABLED":                       NotifyVMExitEnabled,
	"KVM_X86_NOTIFY_VMEXIT_USER":                          NotifyVMExitUser,
	"KVM_PMU_CAP_DISABLE":                                 PMUCapDisable,
	"KVM_CPUID_SIGNATURE":                                 CPUIDSignature,
	"KVM_CPUID_FEATURES":                                  CPUIDFeatures,
	"KVM_FEATURE_CLOCKSOURCE":                             FeatureClockSource,
	"KVM_FEATURE_NOP_IO_DELAY":                            FeatureNOPIODelay,
	"KVM_FEATURE_CLOCKSOURCE2":                            FeatureClockSource2,
	"KVM_FEATURE_ASYNC_PF":                                FeatureAsyncPF,
	"KVM_FEATURE_STEAL_TIME":                              FeatureStealTime,
	"KVM_FEATURE_PV_EOI":                                  FeaturePVEOI,
	"KVM_FEATURE_PV_UNHALT":                               FeaturePVUnhalt,
	"KVM_FEATURE_PV_TLB_FLUSH":                            FeaturePVTLBFlush,
	"KVM_FEATURE_ASYNC_PF_VMEXIT":                         FeatureAsyncPFVMExit,
	"KVM_FEATURE_PV_SEND_IPI":                             FeaturePVSendIPI,
	"KVM_FEATURE_POLL_CONTROL":                            FeaturePollControl,
	"KVM_FEATURE_PV_SCHED_YIELD":                          FeaturePVSchedYield,
	"KVM_FEATURE_ASYNC_PF_INT":                            FeatureAsyncPFInt,
	"KVM_FEATURE_MSI_EXT_DEST_ID":                         FeatureMSIExtDestID,
	"KVM_FEATURE_CLOCKSOURCE_STABLE_BIT":                  FeatureClockSourceStable,
	"MSR_KVM_WALL_CLOCK":                                  MSRKVMWallClock,
	"MSR_KVM_SYSTEM_TIME":                                 MSRKVMSystemTime,
	"MSR_KVM_WALL_CLOCK_NEW":                              MSRKVMWallClockNew,
	"MSR_KVM_SYSTEM_TIME_NEW":                             MSRKVMSystemTimeNew,
	"MSR_KVM_ASYNC_PF_EN":                                 MSRKVMAsyncPFEn,
	"MSR_KVM_STEAL_TIME":                                  MSRKVMStealTime,
	"MSR_KVM_PV_EOI_EN":                                   MSRKVMPVEOIEn,
	"MSR_KVM_POLL_CONTROL":                                MSRKVMPollControl,
	"MSR_KVM_ASYNC_PF_INT":                                MSRKVMAsyncPFInt,
	"MSR_KVM_ASYNC_PF_ACK":                                MSRKVMAsyncPFAck,
	"MSR_KVM_MIGRATION_CONTROL":                           MSRKVMMigrationControl,
	"KVM_STATS_TYPE_MASK":                                 uint64(statsTypeMask),
	"KVM_STATS_TYPE_CUMULATIVE":                           uint64(StatCumulative),
	"KVM_STATS_TYPE_INSTANT":                              uint64(StatInstant),
	"KVM_STATS_TYPE_PEAK":                                 uint64(StatPeak),
	"KVM_STATS_TYPE_LINEAR_HIST":                          uint64(StatLinearHist),
	"KVM_STATS_TYPE_LOG_HIST":                             uint64(StatLogHist),
	"KVM_STATS_UNIT_SHIFT":                                statsUnitShift,
	"KVM_STATS_UNIT_NONE":                                 uint64(StatUnitNone) << statsUnitShift,
	"KVM_STATS_UNIT_BYTES":                                uint64(StatUnitBytes) << statsUnitShift,
	"KVM_STATS_UNIT_SECONDS":                              uint64(StatUnitSeconds) << statsUnitShift,
	"KVM_STATS_UNIT_CYCLES":                               uint64(StatUnitCycles) << statsUnitShift,
	"KVM_STATS_UNIT_BOOLEAN":                              uint64(StatUnitBoolean) << statsUnitShift,
	"KVM_STATS_BASE_SHIFT":                                statsBaseShift,
	"KVM_STATS_BASE_POW10":                                0 << statsBaseShift,
	"KVM_STATS_BASE_POW2":                                 statsBasePow2 << statsBaseShift,
}

// newerThanHeader are names that the headers of Linux 6.1 do not have; they
// are checked by eye, and cited where they are defined.
var newerThanHeader = map[string]bool{
	"KVM_PRE_FAULT_MEMORY":            true,
	"KVM_CAP_PMU_EVENT_MASKED_EVENTS": true,
	"KVM_CAP_USER_MEMORY2":            true,
	"KVM_CAP_MEMORY_FAULT_INFO":       true,
	"KVM_CAP_MEMORY_ATTRIBUTES":       true,
	"KVM_CAP_GUEST_MEMFD":             true,
	"KVM_CAP_VM_TYPES":                true,
	"KVM_CAP_PRE_FAULT_MEMORY":        true,
	"KVM_CAP_X86_APIC_BUS_CYCLES_NS":  true,
	"KVM_CAP_X86_GUEST_MODE":          true,
	"KVM_CAP_GUEST_MEMFD_FLAGS":       true,
	"KVM_EXIT_MEMORY_FAULT":           true,
	"KVM_EXIT_TDX":                    true,
}

// numbers returns every named number of the package: C name to value.
func numbers() map[string]uint64 {
	m := map[string]uint64{}
	add := func(name string, v uint64) {
		if !newerThanHeader[name] {
			m[name] = v
		}
	}
	for name, v := range abiConstants {
		add(name, v)
	}
	for c, name := range capNames {
		add(name, uint64(c))
	}
	for r, name := range exitNames {
		if r != ExitAgain {
			add("KVM_EXIT_"+strings.ToUpper(name), uint64(r))
		}
	}
	for _, r := range allRequests {
		add(r.name, uint64(r.num))
	}
	return m
}

func abiLines(t *testing.T) []string {
	var lines []string
	for _, s := range abiStructs {
		lines = append(lines, s.layout(t)...)
	}
	for _, a := range abiArrays {
		lines = append(lines, fmt.Sprintf("array %s.%s %d", a.c, a.member, a.header))
	}
	nums := numbers()
	for _, name := range sortedKeys(nums) {
		lines = append(lines, fmt.Sprintf("number %s %#x", name, nums[name]))
	}
	return lines
}

func sortedKeys(m map[string]uint64) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

const abiHeader = `/* Code generated by go test ./kvm -run TestABI -update; DO NOT EDIT.
 *
 * Prints how the kernel's headers lay out what package kvm mirrors. */
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <stddef.h>
#include <stdio.h>

#define SIZE(s) printf("size %s %zu\n", #s, sizeof(struct s))
#define MEMBER_SIZE(s, m) printf("size %s.%s %zu\n", #s, #m, sizeof(((struct s *)0)->m))
#define ATLEAST(s, n) \
	do { _Static_assert(sizeof(struct s) >= n, #s); printf("atleast %s %d\n", #s, n); } while (0)
#define FIELD(s, f) \
	printf("field %s.%s %zu %zu\n", #s, #f, offsetof(struct s, f), sizeof(((struct s *)0)->f))
#define ARRAY(s, f) printf("array %s.%s %zu\n", #s, #f, offsetof(struct s, f))
#define NUMBER(n) printf("number %s %#llx\n", #n, (unsigned long long)(n))

int main(void)
{
`

func abiC() []byte {
	var b bytes.Buffer
	b.WriteString(abiHeader)
	for _, s := range abiStructs {
		for _, l := range s.cCode() {
			fmt.Fprintf(&b, "\t%s\n", l)
		}
	}
	for _, a := range abiArrays {
		fmt.Fprintf(&b, "\tARRAY(%s, %s);\n", a.c, a.member)
	}
	for _, name := range sortedKeys(numbers()) {
		fmt.Fprintf(&b, "\tNUMBER(%s);\n", name)
	}
	b.WriteString("\treturn 0;\n}\n")
	return b.Bytes()
}

// compileABI builds abi.c against the machine's headers and returns what it
// prints.
func compileABI(t *testing.T, cc, source string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "abi")
	if out, err := exec.Command(cc, "-Wall", "-o", exe, source).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", cc, source, err, out)
	}
	out, err := exec.Command(exe).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestABI(t *testing.T) {
	const source, golden = "testdata/abi.c", "testdata/abi.golden"
	if *update {
		if err := os.WriteFile(source, abiC(), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(compileABI(t, "cc", source)), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(normalizeZero(string(b))), "\n")
	got := strings.Split(normalizeZero(strings.Join(abiLines(t), "\n")), "\n")
	diffLines(t, "Go", got, golden, want)
}

// TestABIAgainstThisMachine compares the golden file with the headers of the
// machine, which may be newer than those it was made from.
func TestABIAgainstThisMachine(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Log("no C compiler here: the golden file alone was compared")
		return
	}
	if err := exec.Command(cc, "-E", "-include", "linux/kvm.h", "-x", "c", os.DevNull).Run(); err != nil {
		t.Log("no kernel headers here: the golden file alone was compared")
		return
	}
	b, err := os.ReadFile("testdata/abi.golden")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(b)), "\n")
	got := strings.Split(strings.TrimSpace(compileABI(t, cc, "testdata/abi.c")), "\n")
	diffLines(t, "headers", got, "abi.golden", want)
}

// normalizeZero hides that C's %#llx prints 0 and Go's %#x prints 0x0.
func normalizeZero(s string) string { return strings.ReplaceAll(s+"\n", " 0x0\n", " 0\n") }

func diffLines(t *testing.T, gotName string, got []string, wantName string, want []string) {
	t.Helper()
	for _, l := range got {
		if l != "" && !slices.Contains(want, l) {
			t.Errorf("%s says %q, %s does not", gotName, l, wantName)
		}
	}
	for _, l := range want {
		if l != "" && !slices.Contains(got, l) {
			t.Errorf("%s says %q, %s does not", wantName, l, gotName)
		}
	}
}
