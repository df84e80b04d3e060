package cpuid

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Model is what a guest is shown of the host's processor.
type Model string

// The models. A baseline has the instructions of a level of the x86-64 psABI and
// no others, so that a guest that booted with it runs on every host of that level
// and the same vendor. What the host's processor and KVM tell about
// weaknesses and how to mend them is shown in each model: a guest that does not
// know of it is not safe, so hosts that differ there do not suit each other.
const (
	Host       Model = "host" // everything that KVM supports; also the empty Model
	BaselineV2 Model = "baseline-v2"
	BaselineV3 Model = "baseline-v3"
)

// ParseModel returns the model of that name.
func ParseModel(s string) (Model, error) {
	switch m := Model(s); m {
	case "", Host, BaselineV2, BaselineV3:
		return m, nil
	}
	return "", fmt.Errorf("CPU model %q: there are baseline-v2, baseline-v3 and host", s)
}

// level is what one level of the psABI adds to the one before: what has to be
// there, and what may be there besides.
type level struct{ need, may map[word]uint32 }

func set(n ...int) (v uint32) {
	for _, b := range n {
		v |= 1 << b
	}
	return v
}

// v2 is x86-64-v2, with what operating systems take for granted.
var v2 = level{
	need: map[word]uint32{
		w1c:  set(0, 9, 13, 19, 20, 23),     // SSE3, SSSE3, CX16, SSE4, POPCNT
		w1d:  set(0, 8, 15, 23, 24, 25, 26), // FPU, CX8, CMOV, MMX, FXSR, SSE, SSE2
		wX1c: set(0),                        // LAHF
		wX1d: set(11, 20, 29),               // SYSCALL, NX, LM
	},
	may: map[word]uint32{
		w1c:   set(21, 24, 31),                                             // x2APIC, TSC deadline, hypervisor: of KVM
		w1d:   set(1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 16, 17, 19, 28), // what came before; HTT: of the topology
		wX1c:  set(1, 4, 22),                                               // CmpLegacy, CR8, TOPOEXT: of the topology
		wX1d:  set(27),                                                     // RDTSCP
		wX7d:  set(8),                                                      // invariant TSC
		wKVM:  set(0, 1, 3, 5, 6, 7, 9, 11, 24),                            // what KVM has had since Linux 4.20
		w7d:   set(9, 10, 26, 27, 28, 29, 31),                              // weaknesses
		w72d:  set(0, 1, 2, 4, 5),                                          //
		wX8b:  set(12, 14, 15, 16, 17, 18, 19, 24, 25, 26, 28, 29, 30),     //
		wX21a: set(2, 8, 27, 28, 29),                                       //
	},
}

// v3 is what x86-64-v3 adds.
var v3 = level{
	need: map[word]uint32{
		w1c:   set(12, 22, 26, 28, 29), // FMA, MOVBE, XSAVE, AVX, F16C
		w7b:   set(3, 5, 8),            // BMI1, AVX2, BMI2
		wX1c:  set(5),                  // LZCNT
		wXCR0: set(0, 1, 2),            // x87, SSE, AVX
	},
	may: map[word]uint32{
		w1c: set(27), // OSXSAVE: the guest's own
		wXS: set(0),  // XSAVEOPT
	},
}

func (m Model) levels() []level {
	switch m {
	case BaselineV2:
		return []level{v2}
	case BaselineV3:
		return []level{v2, v3}
	}
	return nil
}

// physBits is the width of physical addresses in the baselines, of a host that
// has no fewer.
const physBits = 39

// dropped are leaves that are only about what no baseline has: SGX, PT, key
// locker, AMX, AVX10, SVM, memory encryption.
var dropped = []uint32{0x12, 0x14, 0x19, 0x1d, 0x1e, 0x24, 0x8000_000a, 0x8000_001f}

// apply leaves the model's features in entries, which it changes, and returns what
// is left. It is an error when the host lacks what the model has to have.
func (m Model) apply(entries []Entry) ([]Entry, error) {
	levels := m.levels()
	if levels == nil {
		return entries, nil
	}
	allowed := map[word]uint32{}
	var lacks []string
	for _, l := range levels {
		for _, w := range sorted(l.need) {
			allowed[w] |= l.need[w]
			e, _ := Find(entries, w.leaf, w.subleaf)
			for miss := l.need[w] &^ *e.reg(w.reg); miss != 0; miss &= miss - 1 {
				lacks = append(lacks, BitName(w.String(), bits.TrailingZeros32(miss)))
			}
		}
		for w, v := range l.may {
			allowed[w] |= v
		}
	}
	if len(lacks) > 0 {
		return nil, fmt.Errorf("this host's CPU, or KVM on it, is no %s: it lacks %s", m, strings.Join(lacks, ", "))
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return slices.Contains(dropped, e.Leaf) })
	for i := range entries {
		e := &entries[i]
		for _, f := range features {
			if f.leaf == e.Leaf && (!e.Indexed || f.subleaf == e.Subleaf) {
				*e.reg(f.reg) &= allowed[word{f.leaf, f.subleaf, f.reg}]
			}
		}
		switch e.Leaf {
		case 0xd:
			m.xsave(e, allowed[wXCR0])
		case 0x8000_0008:
			e.EAX = e.EAX&^0xffff | min(e.EAX>>8&0xff, 48)<<8 | min(e.EAX&0xff, physBits)
		}
	}
	return entries, nil
}

// xsave makes leaf 0xd fit the components that are left.
func (m Model) xsave(e *Entry, components uint32) {
	switch {
	case e.Subleaf == 0 && components == 0:
		e.EBX, e.ECX = 0, 0
	case e.Subleaf == 0: // legacy area, header, and AVX at its place ever since
		e.EBX, e.ECX = 576, 576+256
	case e.Subleaf == 1:
		e.EBX = 0 // the size of XSAVES's area
	case components>>e.Subleaf&1 == 0:
		e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, 0, 0
	}
}

// sorted returns the words in the order of the manuals.
func sorted(m map[word]uint32) []word {
	var list []word
	for w := range m {
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b word) int {
		return strings.Compare(fmt.Sprintf("%08x%x%d", a.leaf, a.subleaf, a.reg), fmt.Sprintf("%08x%x%d", b.leaf, b.subleaf, b.reg))
	})
	return list
}
