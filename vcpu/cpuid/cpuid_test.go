package cpuid_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/vcpu/cpuid"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// host is a shortened KVM_GET_SUPPORTED_CPUID answer; every changed leaf is
// filled with ones or odd values so that a rule that forgets bits shows.
func host(vendor string) []cpuid.Entry {
	le := func(s string) uint32 {
		return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
	}
	es := []cpuid.Entry{
		{Leaf: 0, EAX: 0x1f, EBX: le(vendor[:4]), EDX: le(vendor[4:8]), ECX: le(vendor[8:])},
		{Leaf: 1, EAX: 0x50657, EBX: 0x07_20_08_00, ECX: 0x7e9a_320b, EDX: 0x0f8b_fbff},
		{Leaf: 6, EAX: 0x77, EBX: 2, ECX: 9},
		{Leaf: 0xa, EAX: 0x08300805, EBX: 1, ECX: 2, EDX: 0x8604},
		{Leaf: 0xb, Indexed: true, EBX: 2, ECX: 0x100, EDX: 7},
		{Leaf: 0x1f, Indexed: true, EBX: 2, ECX: 0x100, EDX: 7},
		{Leaf: 0x4000_0000, EAX: 0x4000_0001, EBX: 0x4b4d564b, ECX: 0x564b4d56, EDX: 0x4d},
		{Leaf: 0x4000_0001, EAX: 0x0100_7efb},
		{Leaf: 0x8000_0001, ECX: 0x1180_0121, EDX: 0x2c10_0800},
		{Leaf: 0x8000_0008, EAX: 0x302e, ECX: 0x7007},
	}
	if vendor == cpuid.Intel {
		es = append(es,
			cpuid.Entry{Leaf: 4, Subleaf: 0, Indexed: true, EAX: 0x1c00_4121, EBX: 0x01c0_003f},
			cpuid.Entry{Leaf: 4, Subleaf: 3, Indexed: true, EAX: 0x1c03_c163, EBX: 0x0280_003f},
			cpuid.Entry{Leaf: 4, Subleaf: 4, Indexed: true})
	} else {
		es = append(es,
			cpuid.Entry{Leaf: 0x8000_001d, Subleaf: 0, Indexed: true, EAX: 0x4121},
			cpuid.Entry{Leaf: 0x8000_001d, Subleaf: 3, Indexed: true, EAX: 0xc163},
			cpuid.Entry{Leaf: 0x8000_001e, EAX: 9, EBX: 0x104, ECX: 0x300})
	}
	return es
}

func TestPolicyGolden(t *testing.T) {
	for _, c := range []struct {
		name, vendor string
		p            cpuid.Params
	}{
		{"intel-1", cpuid.Intel, cpuid.Params{Index: 0, Count: 1, TSCkHz: 2_500_000}},
		{"intel-3of4", cpuid.Intel, cpuid.Params{Index: 3, Count: 4, TSCkHz: 2_500_000}},
		{"amd-0of6", cpuid.AMD, cpuid.Params{Index: 0, Count: 6}},
		{"amd-15of16", cpuid.AMD, cpuid.Params{Index: 15, Count: 16, TSCkHz: 3_000_000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := host(c.vendor)
			keep := slices.Clone(in)
			out, err := cpuid.Build(in, c.p)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(in, keep) {
				t.Error("Build changed its input")
			}
			var b strings.Builder
			for _, e := range out {
				fmt.Fprintf(&b, "%08x.%x eax=%08x ebx=%08x ecx=%08x edx=%08x\n", e.Leaf, e.Subleaf, e.EAX, e.EBX, e.ECX, e.EDX)
			}
			file := filepath.Join("testdata", c.name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("policy changed; got:\n%swant:\n%s", b.String(), want)
			}
		})
	}
}

func TestEveryVCPUHasItsOwnID(t *testing.T) {
	seen := map[uint32]bool{}
	for i := range 16 {
		es, err := cpuid.Build(host(cpuid.Intel), cpuid.Params{Index: i, Count: 16})
		if err != nil {
			t.Fatal(err)
		}
		one, _ := cpuid.Find(es, 1, 0)
		topo, ok := cpuid.Find(es, 0xb, 1)
		if !ok || topo.EDX != one.EBX>>24 || topo.EDX != uint32(i) {
			t.Errorf("vCPU %d: leaf 1 says %d, leaf 0xb says %d", i, one.EBX>>24, topo.EDX)
		}
		if topo.EBX != 16 || topo.EAX != 4 {
			t.Errorf("vCPU %d: %d cores, shift %d; want 16 and 4", i, topo.EBX, topo.EAX)
		}
		seen[topo.EDX] = true
	}
	if len(seen) != 16 {
		t.Errorf("%d distinct IDs for 16 vCPUs", len(seen))
	}
}

func TestImpossibleVCPUIsRefused(t *testing.T) {
	for _, p := range []cpuid.Params{{Index: 0, Count: 0}, {Index: 2, Count: 2}, {Index: -1, Count: 2}} {
		if _, err := cpuid.Build(host(cpuid.Intel), p); err == nil {
			t.Errorf("Build(%+v) succeeded", p)
		}
	}
}
