package vcpu

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/kvm"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// one has something in every field.
func one() *stateV1 {
	off := ^uint64(0) - 5
	s := &stateV1{
		CPUID:  []kvm.CPUIDEntry{{Function: 1, Index: 2, Flags: 1, EAX: 3, EBX: 4, ECX: 5, EDX: 6}},
		TSCKHz: 2_000_000, TSCOff: &off, MPState: kvm.MPStateHalted,
		Regs:   kvm.Regs{RAX: 1, RIP: 0xffffffff81000000, RFLAGS: 2},
		Sregs2: &kvm.Sregs2{CR0: 0x80050033, EFER: 0xd01, APICBase: 0xfee00900, CS: kvm.Segment{Selector: 0x10, L: 1, Present: 1}},
		XSave:  []byte{1, 2, 3}, XCRs: []kvm.XCR{{Value: 7}},
		LAPIC: make([]byte, len(kvm.LAPICState{}.Regs)), MSRs: []msr{{kvm.MSRTSC, 77}},
		Events: kvm.VCPUEvents{NMIPending: 1},
	}
	s.Debug.DR6 = 0xffff0ff0
	s.LAPIC[kvm.LAPICSpurious] = 0xff
	return s
}

// What a section of version 1 looks like may never change; a change of the
// golden file is a new version.
func TestTheSectionIsWhatVersion1Says(t *testing.T) {
	got, err := json.MarshalIndent(one(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/state-v1.golden"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("differs from %s (%v); with -update it is rewritten:\n%s", golden, err, got)
	}
}

// fromBytes decodes a payload as Load does.
type fromBytes struct{ s *stateV1 }

func (f *fromBytes) StateVersion() uint32    { return StateVersion }
func (f *fromBytes) SaveState() (any, error) { return f.s, nil }
func (f *fromBytes) LoadState(d state.Decoder) (err error) {
	f.s, err = decode(d)
	return err
}

// FuzzLoadState: what is not a vCPU is refused with an error of ours, and what
// is taken stays within bounds.
func FuzzLoadState(f *testing.F) {
	b, err := json.Marshal(one())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"cpuid":[{}],"sregs":{},"lapic":"","msrs":[{"i":1,"v":2}]}`))
	table := crc32.MakeTable(crc32.Castagnoli)
	f.Fuzz(func(t *testing.T, payload []byte) {
		var d fromBytes
		err := state.Load(state.Section{Path: "vcpu/0", Version: StateVersion, CRC: crc32.Checksum(payload, table), Payload: payload}, &d)
		switch {
		case err == nil:
			if len(d.s.MSRs) > maxMSRs || len(d.s.XCRs) > maxXCRs || len(d.s.CPUID) > maxCPUID {
				t.Error("beyond its bounds")
			}
		case !errors.Is(err, ErrState) && !errors.Is(err, state.ErrCorrupt):
			t.Errorf("refused with %v", err)
		}
	})
}
