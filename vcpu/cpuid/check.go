package cpuid

import (
	"fmt"
	"math/bits"
	"strings"
)

// feature is a register whose bits are things a guest may have started to use.
type feature struct {
	leaf, subleaf uint32
	reg           register
	follows       uint32 // bits that mirror the guest's own state, not the host
}

const (
	osxsave = 1 << 27
	ospke   = 1 << 4
)

// features are compared bit by bit when a guest moves to another host.
var features = []feature{
	{0x1, 0, ecx, osxsave},
	{0x1, 0, edx, 0},
	{0x7, 0, ebx, 0},
	{0x7, 0, ecx, ospke},
	{0x7, 0, edx, 0},
	{0x7, 1, eax, 0},
	{0x7, 1, ebx, 0},
	{0x7, 1, ecx, 0},
	{0x7, 1, edx, 0},
	{0x7, 2, edx, 0},
	{0xd, 0, eax, 0},
	{0xd, 0, edx, 0}, // components of XCR0
	{0xd, 1, eax, 0},
	{0xd, 1, ecx, 0},
	{0xd, 1, edx, 0}, // XSAVE variants, components of XSS
	{0x14, 0, ebx, 0},
	{0x14, 0, ecx, 0},
	{0x4000_0001, 0, eax, 0}, // KVM's own
	{0x8000_0001, 0, ecx, 0},
	{0x8000_0001, 0, edx, 0},
	{0x8000_0007, 0, edx, 0},
	{0x8000_0008, 0, ebx, 0},
	{0x8000_0021, 0, eax, 0},
}

// Compatible says whether a guest that was told guest can go on where a new one
// would be told host (the result of Build for the same vCPU). The error names
// every difference that the guest could notice.
func Compatible(guest, host []Entry) error {
	if g, h := vendorOf(guest), vendorOf(host); g != h {
		return fmt.Errorf("the guest runs on a CPU of %q, this host's is of %q", g, h)
	}
	var lacks []string
	for _, f := range features {
		g, _ := Find(guest, f.leaf, f.subleaf)
		h, _ := Find(host, f.leaf, f.subleaf)
		for more := *g.reg(f.reg) &^ *h.reg(f.reg) &^ f.follows; more != 0; more &= more - 1 {
			lacks = append(lacks, BitName(word{f.leaf, f.subleaf, f.reg}.String(), bits.TrailingZeros32(more)))
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("this host's CPU lacks what the guest was told it has: %s", strings.Join(lacks, ", "))
	}
	if err := sameWidths(guest, host); err != nil {
		return err
	}
	return sameXSaveLayout(guest, host)
}

// sameWidths compares the widths of addresses, by which the guest has laid out
// its page tables.
func sameWidths(guest, host []Entry) error {
	g, _ := Find(guest, 0x8000_0008, 0)
	h, _ := Find(host, 0x8000_0008, 0)
	for _, w := range []struct {
		name  string
		shift int
	}{{"physical", 0}, {"linear", 8}} {
		if a, b := g.EAX>>w.shift&0xff, h.EAX>>w.shift&0xff; a > b {
			return fmt.Errorf("the guest uses %s addresses of %d bits, this host's CPU has %d", w.name, a, b)
		}
	}
	return nil
}

// sameXSaveLayout compares where each component lies in the XSAVE area: a guest
// has saved its tasks' areas in memory.
func sameXSaveLayout(guest, host []Entry) error {
	g, _ := Find(guest, 0xd, 0)
	for i := uint32(2); i < 32; i++ {
		if g.EAX>>i&1 == 0 {
			continue
		}
		a, _ := Find(guest, 0xd, i)
		b, _ := Find(host, 0xd, i)
		if a.EAX != b.EAX || a.EBX != b.EBX {
			return fmt.Errorf("XSAVE component %d is %d bytes at %d for the guest, %d bytes at %d on this host", i, a.EAX, a.EBX, b.EAX, b.EBX)
		}
	}
	return nil
}
