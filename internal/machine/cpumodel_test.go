package machine

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/vcpu/cpuid"
)

// cpuidAt is where askCPUID's guest writes what it was told.
const cpuidAt = 0x30_0000

// askCPUID is 32-bit code that executes CPUID with each pair of leaf and subleaf,
// writes down EAX, EBX, ECX and EDX, and switches the machine off.
func askCPUID(asked ...[2]uint32) (code []byte) {
	le := binary.LittleEndian
	at := uint32(cpuidAt)
	for _, a := range asked {
		code = le.AppendUint32(append(code, 0xb8), a[0]) // mov eax, leaf
		code = le.AppendUint32(append(code, 0xb9), a[1]) // mov ecx, subleaf
		code = append(code, 0x0f, 0xa2)                  // cpuid
		code = le.AppendUint32(append(code, 0xa3), at)   // mov [at], eax
		for i, modrm := range []byte{0x1d, 0x0d, 0x15} { // mov [at+4...], ebx, ecx, edx
			code = le.AppendUint32(append(code, 0x89, modrm), at+4*uint32(i+1))
		}
		at += 16
	}
	return append(code, outb(portPower+offSleep, 0x34)...)
}

// The guest executes CPUID itself: what KVM answers is what counts. A KVM without
// processor support (PVM), on which Linux guests cannot be tested either, lets the
// instruction go to the processor.
func TestGuestsSeeTheProcessorOfTheirModel(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	host := newMachine(t, Config{}, askCPUID()...)
	all, err := host.GuestCPU()
	must(t, err)
	const hypervisor, sse42, avx, xsave = 1 << 31, 1 << 20, 1 << 28, 1 << 26
	const avx2, avx512f, sha = 1 << 5, 1 << 16, 1 << 29
	for _, tc := range []struct {
		model        cpuid.Model
		has, hasNot1 uint32 // of leaf 1 ECX
		has7, hasNot uint32 // of leaf 7 EBX
		xcr0         uint32
	}{
		{cpuid.BaselineV2, hypervisor | sse42, avx | xsave, 0, ^uint32(0), 0},
		{cpuid.BaselineV3, hypervisor | sse42 | avx | xsave, 1 << 25, avx2, avx512f | sha, 7},
		{cpuid.Host, hypervisor, 0, all.Words["7.0.ebx"], ^all.Words["7.0.ebx"], all.Words["d.0.eax"]},
	} {
		t.Run(string(tc.model), func(t *testing.T) {
			m, err := New(Config{MemoryBytes: 16 << 20, CPUModel: tc.model, Kernel: microKernel(t, askCPUID([2]uint32{1}, [2]uint32{7}, [2]uint32{0xd})...)})
			if err != nil && strings.Contains(err.Error(), "it lacks") {
				t.Skipf("this host is none: %v", err)
			}
			must(t, err)
			t.Cleanup(func() { _ = m.Close() })
			if end := m.Run(t.Context()); end.Reason != PowerOff {
				t.Fatal(end)
			}
			b, err := m.mem.Slice(cpuidAt, 48)
			must(t, err)
			reg := func(leaf, r int) uint32 { return binary.LittleEndian.Uint32(b[16*leaf+4*r:]) }
			if got := reg(0, 2); got&tc.has != tc.has || got&tc.hasNot1 != 0 {
				t.Errorf("leaf 1 ECX is %#x, want %#x and not %#x", got, tc.has, tc.hasNot1)
			}
			if got := reg(1, 1); got&tc.has7 != tc.has7 || got&tc.hasNot != 0 {
				t.Errorf("leaf 7 EBX is %#x, want %#x and not %#x", got, tc.has7, tc.hasNot)
			}
			if got := reg(2, 0); got != tc.xcr0 {
				t.Errorf("XCR0 may have %#x, want %#x", got, tc.xcr0)
			}
		})
	}
}

// A guest of a baseline is at home on the host that it booted on, and wherever
// there is more.
func TestABaselineGuestCanBeLoadedByItsHost(t *testing.T) {
	for _, model := range []cpuid.Model{cpuid.BaselineV2, cpuid.BaselineV3} {
		t.Run(string(model), func(t *testing.T) {
			testConfig := Config{MemoryBytes: 16 << 20, CPUModel: model, Kernel: microKernel(t, spin...)}
			m, err := New(testConfig)
			if err != nil && strings.Contains(err.Error(), "it lacks") {
				t.Skipf("this host is none: %v", err)
			}
			must(t, err)
			t.Cleanup(func() { _ = m.Close() })
			m.start(t, t.Context())
			eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
			must(t, m.Pause(t.Context()))
			sections, err := m.SaveState()
			must(t, err)
			next, err := New(Config{MemoryBytes: 16 << 20, Restore: &Restore{}}) // what it boots others with does not matter
			must(t, err)
			t.Cleanup(func() { _ = next.Close() })
			must(t, next.LoadState(sections))
			told, err := next.GuestCPU()
			must(t, err)
			if was, err := m.GuestCPU(); err != nil || was.Words["1.0.ecx"] != told.Words["1.0.ecx"] || was.XSave != told.XSave {
				t.Errorf("the guest was told %v (%v), and %v after loading", was, err, told)
			}
		})
	}
}
