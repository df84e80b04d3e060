package cpuid

// rule changes one register of every entry of a leaf: first the bits of clear
// go, then set and the bits of value under clear come.
type rule struct {
	leaf       uint32
	vendor     string // empty: all
	reg        register
	clear, set uint32
	value      func(Params, Entry) uint32
	why        string
}

const all = ^uint32(0)

// rules is applied in order.
var rules = []rule{
	{leaf: 0x1, reg: ebx, clear: 0xff << 24, value: func(p Params, _ Entry) uint32 { return uint32(p.Index) << 24 }, why: "initial APIC ID"},
	{leaf: 0x1, reg: ebx, clear: 0xff << 16, value: func(p Params, _ Entry) uint32 { return min(idSpace(p), 255) << 16 }, why: "addressable processor IDs in the package"},
	{leaf: 0x1, reg: edx, clear: 1 << 28, value: func(p Params, _ Entry) uint32 { return multi(p) << 28 }, why: "HTT says that the count above is valid"},
	{leaf: 0x1, reg: ecx, set: 1 << 31, why: "a hypervisor is present"},
	{leaf: 0x1, reg: ecx, set: 1 << 24, why: "KVM's local APIC has the TSC deadline timer, but does not list it"},
	{leaf: 0x1, reg: ecx, set: 1 << 21, why: "KVM's local APIC has x2APIC mode"},
	{leaf: 0x1, reg: ecx, clear: 1 << 3, why: "MONITOR/MWAIT would idle the host's CPU"},

	{leaf: 0x4, vendor: Intel, reg: eax, clear: 0x3f << 26, value: func(p Params, e Entry) uint32 {
		if cacheType(e) == 0 {
			return 0
		}
		return min(idSpace(p)-1, 0x3f) << 26
	}, why: "cores in the package, less one"},
	{leaf: 0x4, vendor: Intel, reg: eax, clear: 0xfff << 14, value: func(p Params, e Entry) uint32 { return sharers(p, e) << 14 }, why: "threads that share this cache, less one"},

	{leaf: 0x6, reg: eax, clear: all, set: 1 << 2, why: "no power management but a timer that never stops (ARAT)"},
	{leaf: 0x6, reg: ebx, clear: all, why: "no thermal interrupts"},
	{leaf: 0x6, reg: ecx, clear: all, why: "no APERF/MPERF: they count the host's cycles"},

	{leaf: 0xa, reg: eax, clear: all, why: "no performance counters: they cannot migrate"},
	{leaf: 0xa, reg: ebx, clear: all, why: "no performance counters"},
	{leaf: 0xa, reg: ecx, clear: all, why: "no performance counters"},
	{leaf: 0xa, reg: edx, clear: all, why: "no performance counters"},
	{leaf: 0x8000_0022, reg: eax, clear: all, why: "no performance counters (AMD)"},
	{leaf: 0x8000_0022, reg: ebx, clear: all, why: "no performance counters (AMD)"},
	{leaf: 0x8000_0001, vendor: AMD, reg: ecx, clear: 1<<23 | 1<<24 | 1<<28, why: "no performance counters (AMD)"},

	{leaf: leafHypervisor, reg: eax, clear: all, value: func(p Params, e Entry) uint32 {
		if p.TSCkHz == 0 {
			return e.EAX
		}
		return leafTiming
	}, why: "the timing leaf is the last one"},

	{leaf: 0x8000_0001, vendor: AMD, reg: ecx, clear: 1 << 1, value: func(p Params, _ Entry) uint32 { return multi(p) << 1 }, why: "CmpLegacy: HTT means cores"},
	{leaf: 0x8000_0008, vendor: AMD, reg: ecx, clear: 0xf0ff, value: func(p Params, _ Entry) uint32 {
		return min(uint32(p.Count)-1, 0xff) | idBits(p)<<12
	}, why: "cores in the package, less one, and the width of their ID"},
	{leaf: 0x8000_001d, vendor: AMD, reg: eax, clear: 0xfff << 14, value: func(p Params, e Entry) uint32 { return sharers(p, e) << 14 }, why: "threads that share this cache, less one"},
	{leaf: 0x8000_001e, vendor: AMD, reg: eax, clear: all, value: func(p Params, _ Entry) uint32 { return uint32(p.Index) }, why: "extended APIC ID"},
	{leaf: 0x8000_001e, vendor: AMD, reg: ebx, clear: all, value: func(p Params, _ Entry) uint32 { return uint32(p.Index) & 0xff }, why: "core ID, one thread a core"},
	{leaf: 0x8000_001e, vendor: AMD, reg: ecx, clear: all, why: "one node"},
}

func multi(p Params) uint32 {
	if p.Count > 1 {
		return 1
	}
	return 0
}

func cacheType(e Entry) uint32 { return e.EAX & 0x1f }

// sharers: the level-3 cache belongs to the package, the others to a core.
func sharers(p Params, e Entry) uint32 {
	if level := e.EAX >> 5 & 7; level == 3 {
		return min(idSpace(p)-1, 0xfff)
	}
	return 0
}
