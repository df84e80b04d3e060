package cpuid

import (
	"fmt"
	"math/bits"
	"slices"
)

// Entry is what one leaf and subleaf answers.
type Entry struct {
	Leaf, Subleaf      uint32
	Indexed            bool // the subleaf (ECX) matters for this leaf
	EAX, EBX, ECX, EDX uint32
}

// Params is what the rules need to know of the machine.
type Params struct {
	Index  int // of the vCPU; also its APIC ID
	Count  int // vCPUs in the machine: one socket, one thread a core
	TSCkHz uint32
	Model  Model
}

type register int

const (
	eax register = iota
	ebx
	ecx
	edx
)

func (e *Entry) reg(r register) *uint32 {
	return [...]*uint32{&e.EAX, &e.EBX, &e.ECX, &e.EDX}[r]
}

// Guest leaves that KVM defines.
const (
	leafHypervisor = 0x4000_0000 // signature and the highest hypervisor leaf
	leafTiming     = 0x4000_0010 // TSC and APIC timer frequency in kHz
)

// apicTimerkHz is the rate of KVM's local APIC timer: one tick a nanosecond.
const apicTimerkHz = 1_000_000

// Build returns the answers for one vCPU: supported (what
// KVM_GET_SUPPORTED_CPUID returned, left unchanged) after every rule, as far as
// the model goes.
func Build(supported []Entry, p Params) ([]Entry, error) {
	if p.Count < 1 || p.Index < 0 || p.Index >= p.Count {
		return nil, fmt.Errorf("vCPU %d of %d does not exist", p.Index, p.Count)
	}
	vendor := vendorOf(supported)
	out := slices.DeleteFunc(slices.Clone(supported), func(e Entry) bool {
		return e.Leaf == 0xb || e.Leaf == 0x1f || e.Leaf == leafTiming
	})
	for i := range out {
		e := &out[i]
		for _, r := range rules {
			if r.leaf != e.Leaf || r.vendor != "" && r.vendor != vendor {
				continue
			}
			v := e.reg(r.reg)
			*v = *v&^r.clear | r.set
			if r.value != nil {
				*v = *v&^r.clear | r.value(p, *e)&r.clear
			}
		}
	}
	for _, leaf := range []uint32{0xb, 0x1f} {
		if maxBasic(supported) >= leaf && hasLeaf(supported, leaf) {
			out = append(out, topology(leaf, p)...)
		}
	}
	if hasLeaf(supported, leafHypervisor) && p.TSCkHz != 0 {
		out = append(out, Entry{Leaf: leafTiming, EAX: p.TSCkHz, EBX: apicTimerkHz})
	}
	slices.SortFunc(out, func(a, b Entry) int {
		if a.Leaf != b.Leaf {
			return int(int64(a.Leaf) - int64(b.Leaf))
		}
		return int(int64(a.Subleaf) - int64(b.Subleaf))
	})
	return p.Model.apply(out)
}

// Find returns the entry that answers leaf and subleaf.
func Find(entries []Entry, leaf, subleaf uint32) (Entry, bool) {
	for _, e := range entries {
		if e.Leaf == leaf && (!e.Indexed || e.Subleaf == subleaf) {
			return e, true
		}
	}
	return Entry{}, false
}

// Vendors, as leaf 0 spells them.
const (
	Intel = "GenuineIntel"
	AMD   = "AuthenticAMD"
)

func vendorOf(entries []Entry) string {
	e, _ := Find(entries, 0, 0)
	b := make([]byte, 0, 12)
	for _, v := range []uint32{e.EBX, e.EDX, e.ECX} {
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
	}
	if string(b) == "HygonGenuine" { // AMD's layout under another name
		return AMD
	}
	return string(b)
}

func maxBasic(entries []Entry) uint32 {
	e, _ := Find(entries, 0, 0)
	return e.EAX
}

func hasLeaf(entries []Entry, leaf uint32) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.Leaf == leaf })
}

// topology describes one socket of single-threaded cores (SDM, leaf 0xb: EAX
// is the shift to the next level's ID, EBX the processors at this level, ECX
// the level's number and type, EDX the x2APIC ID).
func topology(leaf uint32, p Params) []Entry {
	const thread, core = 1 << 8, 2 << 8
	id := uint32(p.Index)
	return []Entry{
		{Leaf: leaf, Subleaf: 0, Indexed: true, EAX: 0, EBX: 1, ECX: 0 | thread, EDX: id},
		{Leaf: leaf, Subleaf: 1, Indexed: true, EAX: idBits(p), EBX: uint32(p.Count), ECX: 1 | core, EDX: id},
		{Leaf: leaf, Subleaf: 2, Indexed: true, ECX: 2, EDX: id},
	}
}

// idBits is the width of the core number in an APIC ID.
func idBits(p Params) uint32 { return uint32(bits.Len(uint(p.Count - 1))) }

// idSpace is the number of APIC IDs that the width allows.
func idSpace(p Params) uint32 { return 1 << idBits(p) }
