package cpuid

import (
	"strings"
	"testing"
)

// chip is what CPUID says on a processor, as far as models look at it.
type chip struct {
	vendor             string
	c1, d1, b7, c7, d7 uint32
	xcr0               uint32
	cX1, dX1, aX8, bX8 uint32
	zmm                bool
}

// Written down from published values, not read on the machines, with what KVM
// offers of each.
var (
	westmere = chip{vendor: Intel, c1: 0x8298_2203, d1: 0x0f8b_fbff, cX1: 1, dX1: 0x2810_0800, aX8: 0x3028}
	haswell  = chip{vendor: Intel, c1: 0xf7fa_3203, d1: 0x0f8b_fbff, b7: 0x27ab, d7: 0xac00_0400, xcr0: 7, cX1: 0x21, dX1: 0x2c10_0800, aX8: 0x3027}
	skylake  = chip{vendor: Intel, c1: 0xfffa_3203, d1: 0x0f8b_fbff, b7: 0xd19f_6fbb, c7: 0xc, d7: 0xac00_0400, xcr0: 0x2e7, cX1: 0x121, dX1: 0x2c10_0800, aX8: 0x302e, zmm: true}
	rome     = chip{vendor: AMD, c1: 0xfed8_320b, d1: 0x178b_fbff, b7: 0x219c_01a9, c7: 4, xcr0: 7, cX1: 0x0040_03f3, dX1: 0x2fd3_fbff, aX8: 0x3030, bX8: 0x0180_d205}
	milan    = chip{vendor: AMD, c1: 0xfeda_320b, d1: 0x178b_fbff, b7: 0x219c_07a9, c7: 0x0040_060c, d7: 0x10, xcr0: 0x207, cX1: 0x0040_03f3, dX1: 0x2fd3_fbff, aX8: 0x3030, bX8: 0x0180_d205}
)

func (c chip) entries() []Entry {
	le := func(s string) uint32 { return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24 }
	es := []Entry{
		{Leaf: 0, EAX: 0x16, EBX: le(c.vendor), EDX: le(c.vendor[4:]), ECX: le(c.vendor[8:])},
		{Leaf: 1, ECX: c.c1, EDX: c.d1},
		{Leaf: 7, Indexed: true, EBX: c.b7, ECX: c.c7, EDX: c.d7},
		{Leaf: 0xd, Indexed: true, EAX: c.xcr0, EBX: 576, ECX: 832},
		{Leaf: 0xd, Subleaf: 1, Indexed: true, EAX: 0xf, EBX: 832},
		{Leaf: 0xd, Subleaf: 2, Indexed: true, EAX: 256, EBX: 576},
		{Leaf: 0x14, Indexed: true, EBX: 0xf, ECX: 7},
		{Leaf: leafHypervisor, EAX: 0x4000_0001},
		{Leaf: 0x4000_0001, EAX: 0x0100_7efb},
		{Leaf: 0x8000_0001, ECX: c.cX1, EDX: c.dX1},
		{Leaf: 0x8000_0008, EAX: c.aX8, EBX: c.bX8},
	}
	if c.zmm {
		es[3].ECX = 2696
		es = append(es, Entry{Leaf: 0xd, Subleaf: 5, Indexed: true, EAX: 64, EBX: 1088})
	}
	return es
}

func told(t *testing.T, c chip, m Model) []Entry {
	t.Helper()
	es, err := Build(c.entries(), Params{Count: 1, Model: m})
	if err != nil {
		t.Fatal(err)
	}
	return es
}

func TestGuestsOfABaselineMoveBetweenUnequalHosts(t *testing.T) {
	for _, tc := range []struct {
		name     string
		from, to chip
		model    Model
		refuse   string // part of the message; empty: it can move
	}{
		{"v3, newer to older", skylake, haswell, BaselineV3, ""},
		{"v3, older to newer", haswell, skylake, BaselineV3, ""},
		{"v3, AMD, newer to older", milan, rome, BaselineV3, ""},
		{"v3, AMD, older to newer", rome, milan, BaselineV3, ""},
		{"v2, to one that knows the same weaknesses", haswell, skylake, BaselineV2, ""},
		{"v2, from one that knows of none", westmere, skylake, BaselineV2, ""},
		{"v2, to one that cannot mend the weaknesses", haswell, westmere, BaselineV2, "IBRS/IBPB, STIBP"},
		{"host, newer to older", skylake, haswell, Host, "AVX512F"},
		{"host, older to newer", haswell, skylake, "", ""},
		{"host, AMD, newer to older", milan, rome, Host, "INVPCID"},
		{"v2, another vendor", milan, haswell, BaselineV2, "GenuineIntel"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Compatible(told(t, tc.from, tc.model), told(t, tc.to, Host))
			if tc.refuse == "" && err != nil || tc.refuse != "" && (err == nil || !strings.Contains(err.Error(), tc.refuse)) {
				t.Errorf("%v, want %q", err, tc.refuse)
			}
		})
	}
}

func TestABaselineNeedsItsHost(t *testing.T) {
	_, err := Build(westmere.entries(), Params{Count: 1, Model: BaselineV3})
	for _, name := range []string{"baseline-v3", "FMA", "AVX2", "BMI1", "LZCNT", "AVX state"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("v3 on Westmere: %v, want it to name %s", err, name)
		}
	}
	if _, err := Build(westmere.entries(), Params{Count: 1, Model: BaselineV2}); err != nil {
		t.Errorf("v2 on Westmere: %v", err)
	}
}

func TestABaselineHasNothingOfMore(t *testing.T) {
	traits := TraitsOf(told(t, skylake, BaselineV3))
	for word, want := range map[string]uint32{
		"1.0.ecx":        skylake.c1 & (v2.need[w1c] | v2.may[w1c] | v3.need[w1c]),
		"7.0.ebx":        set(3, 5, 8),
		"7.0.ecx":        0,
		"7.0.edx":        skylake.d7,
		"d.0.eax":        7,
		"d.1.eax":        1,
		"14.0.ebx":       0,
		"80000001.0.ecx": set(0, 5),
		"40000001.0.eax": 0x0100_7efb & v2.may[wKVM],
	} {
		if got := traits.Words[word]; got != want {
			t.Errorf("%s is %#x, want %#x", word, got, want)
		}
	}
	if traits.PhysBits != physBits || traits.XSave != 832 {
		t.Errorf("%d physical bits, XSAVE area of %d bytes", traits.PhysBits, traits.XSave)
	}
	if es := told(t, skylake, BaselineV2); len(TraitsOf(es).Words) == 0 || TraitsOf(es).Words["d.0.eax"] != 0 || TraitsOf(es).XSave != 0 {
		t.Errorf("v2 has XSAVE: %+v", TraitsOf(es))
	}
}

func TestModelsHaveNames(t *testing.T) {
	for name, ok := range map[string]bool{"": true, "host": true, "baseline-v2": true, "baseline-v3": true, "baseline-v4": false, "qemu64": false} {
		if _, err := ParseModel(name); (err == nil) != ok {
			t.Errorf("ParseModel(%q): %v", name, err)
		}
	}
	for _, tc := range []struct {
		word string
		bit  int
		want string
	}{{"7.0.ebx", 5, "AVX2"}, {"80000001.0.ecx", 5, "LZCNT"}, {"7.0.edx", 0, "CPUID 7.0.edx bit 0"}, {"9.0.eax", 3, "CPUID 9.0.eax bit 3"}} {
		if got := BitName(tc.word, tc.bit); got != tc.want {
			t.Errorf("bit %d of %s is %q, want %q", tc.bit, tc.word, got, tc.want)
		}
	}
}
