package vcpu_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
)

// saver makes a vCPU a state.Stateful, as its machine does.
type saver struct {
	*vcpu.VCPU
	mem  []byte
	msrs []uint32
	opts vcpu.LoadOptions
}

func (saver) StateVersion() uint32              { return vcpu.StateVersion }
func (s saver) SaveState() (any, error)         { return s.Save(s.msrs) }
func (s saver) LoadState(d state.Decoder) error { return s.Load(d, s.opts) }

// newChipped is newGuest in a VM with interrupt controllers.
func newChipped(t *testing.T, regs kvm.Regs, code ...byte) saver {
	t.Helper()
	vm, mem := newVM(t)
	copy(mem[codeAt:], code)
	sys, err := kvm.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close()
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	msrs, err := sys.MSRIndexList()
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.CreateIRQChip(); err != nil {
		t.Fatal(err)
	}
	v, err := vcpu.Start(vm, vcpu.Options{
		PIO: unwanted(t, "port"), MMIO: unwanted(t, "memory"),
		CPUID: func(*kvm.VCPU) ([]kvm.CPUIDEntry, error) { return cpuid, nil },
		Setup: func(c *kvm.VCPU) error { return userMode(c, mem, regs) },
		Event: func(e vcpu.Event) { t.Errorf("event %+v", e) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Stop)
	return saver{VCPU: v, mem: mem, msrs: msrs}
}

// keeps counts in a register and in an XMM register, and stores both.
var keeps = []byte{
	0x48, 0xff, 0xc0, // inc rax
	0x66, 0x0f, 0xd4, 0xc1, // paddq xmm0, xmm1
	0x48, 0x89, 0x04, 0x25, 0, 0x70, 0, 0, // mov [0x7000], rax
	0x66, 0x0f, 0xd6, 0x04, 0x25, 8, 0x70, 0, 0, // movq [0x7008], xmm0
	0xeb, 0xe6, // jmp back
}

func TestASavedVCPUGoesOnExactlyInAnother(t *testing.T) {
	a := newChipped(t, kvm.Regs{RAX: 100}, keeps...)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(a.Do(func(c *kvm.VCPU) error {
		x, err := c.XSave()
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(x[160:], 100) // xmm0
		binary.LittleEndian.PutUint64(x[176:], 1)   // xmm1
		x[512] |= 3
		return c.SetXSave(x)
	}))
	count := func(s saver) (rax, xmm uint64) {
		return binary.LittleEndian.Uint64(s.mem[0x7000:]), binary.LittleEndian.Uint64(s.mem[0x7008:])
	}
	for hop := range 5 {
		ok(a.Resume())
		before, _ := count(a)
		eventually(t, "the guest counts", func() bool { n, _ := count(a); return n > before+1000 })
		ok(a.Park())
		sec, err := state.Save("vcpu/0", a)
		ok(err)
		again, err := state.Save("vcpu/0", a)
		ok(err)
		if !bytes.Equal(stable(t, sec), stable(t, again)) {
			t.Errorf("hop %d: saving changes the state:\n%s\n%s", hop, sec.Payload, again.Payload)
		}
		var regs kvm.Regs
		ok(a.Do(func(c *kvm.VCPU) (err error) { regs, err = c.Regs(); return err }))

		b := newChipped(t, kvm.Regs{RIP: 0xdead})
		b.opts.Note = func(msg string, args ...any) { t.Log(append([]any{msg}, args...)...) }
		ok(state.Load(sec, b))
		copy(b.mem, a.mem)
		loaded, err := state.Save("vcpu/0", b)
		ok(err)
		if got, want := stable(t, loaded), stable(t, sec); !bytes.Equal(got, want) {
			t.Errorf("hop %d: loaded\n%s\nwant\n%s", hop, got, want)
		}
		ok(b.Do(func(c *kvm.VCPU) error {
			r, err := c.Regs()
			if r != regs {
				t.Errorf("hop %d: registers %+v, want %+v", hop, r, regs)
			}
			return err
		}))
		// The two counters are stored one after the other: never more than one
		// apart if nothing was lost or done twice.
		ok(b.Resume())
		start, _ := count(b)
		eventually(t, "the restored guest counts", func() bool { n, _ := count(b); return n > start+1000 })
		ok(b.Park())
		if rax, xmm := count(b); rax-xmm > 1 {
			t.Fatalf("hop %d: RAX counted to %d, XMM0 to %d", hop, rax, xmm)
		}
		a = b
	}
}

// stable is a section's payload without what moves by itself.
func stable(t *testing.T, sec state.Section) []byte {
	t.Helper()
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(sec.Payload))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	delete(m, "tsc_offset")
	var msrs []any
	for _, e := range m["msrs"].([]any) {
		switch e.(map[string]any)["i"].(json.Number).String() {
		case "16", "1760": // TSC and its deadline
		case "1073741840", "1073741856": // Hyper-V's clocks, where KVM has them
		default:
			msrs = append(msrs, e)
		}
	}
	m["msrs"] = msrs
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHostileVCPUStatesAreRefused(t *testing.T) {
	a := newChipped(t, kvm.Regs{}, spin...)
	sec, err := state.Save("vcpu/0", a)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string]any){
		"no CPUID":      func(m map[string]any) { m["cpuid"] = []any{} },
		"unknown field": func(m map[string]any) { m["more"] = 1 },
		"no sregs":      func(m map[string]any) { delete(m, "sregs2"); delete(m, "sregs") },
		"short XSAVE":   func(m map[string]any) { m["xsave"] = "AAAA" },
		"short LAPIC":   func(m map[string]any) { m["lapic"] = "AAAA" },
		"bad MP state":  func(m map[string]any) { m["mp_state"] = 77 },
		"a strange MSR": func(m map[string]any) { m["msrs"] = []any{map[string]any{"i": 0x12345678, "v": 1}} },
		"many XCRs":     func(m map[string]any) { m["xcrs"] = make([]any, 17) },
		"XCR0 without x87": func(m map[string]any) {
			m["xcrs"] = []any{map[string]any{"XCR": 0, "Reserved": 0, "Value": 0}}
		},
		"TSC of another world": func(m map[string]any) { m["tsc_khz"] = 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			var m map[string]any
			d := json.NewDecoder(bytes.NewReader(sec.Payload))
			d.UseNumber()
			if err := d.Decode(&m); err != nil {
				t.Fatal(err)
			}
			change(m)
			b := newChipped(t, kvm.Regs{})
			err := state.Load(reseal(t, sec, m), b)
			if !errors.Is(err, vcpu.ErrState) && !errors.Is(err, state.ErrCorrupt) {
				t.Fatalf("loaded: %v", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of several lines: %v", err)
			}
		})
	}
	t.Run("CPUID not admitted", func(t *testing.T) {
		b := newChipped(t, kvm.Regs{})
		no := errors.New("no")
		b.opts.Admit = func(_ *kvm.VCPU, e []kvm.CPUIDEntry) error {
			if len(e) < 10 {
				t.Errorf("%d entries", len(e))
			}
			return no
		}
		if err := state.Load(sec, b); !errors.Is(err, no) || !errors.Is(err, vcpu.ErrState) {
			t.Fatal(err)
		}
	})
}

// reseal puts a payload into a section with the right checksum.
func reseal(t testing.TB, sec state.Section, payload any) state.Section {
	t.Helper()
	out, err := state.Save(sec.Path, plain{payload, sec.Version})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// plain saves a value as it is.
type plain struct {
	v       any
	version uint32
}

func (p plain) StateVersion() uint32        { return p.version }
func (p plain) SaveState() (any, error)     { return p.v, nil }
func (plain) LoadState(state.Decoder) error { return nil }

func TestAStoppedVCPUCannotBeSaved(t *testing.T) {
	a := newChipped(t, kvm.Regs{}, spin...)
	a.Stop()
	if _, err := a.SaveState(); !errors.Is(err, vcpu.ErrStopped) {
		t.Error(err)
	}
}

func TestTheTSCGoesOnWhereItWas(t *testing.T) {
	a := newChipped(t, kvm.Regs{}, spin...)
	var host uint64
	var has bool
	err := a.Do(func(c *kvm.VCPU) (err error) { host, has, err = vcpu.HostTSC(c); return err })
	if err != nil {
		t.Fatal(err)
	}
	if !has {
		t.Log("this host has no TSC offsets")
		return
	}
	var again uint64
	if err := a.Do(func(c *kvm.VCPU) (err error) { again, _, err = vcpu.HostTSC(c); return err }); err != nil || again <= host {
		t.Errorf("the host's TSC went from %d to %d, %v", host, again, err)
	}
}
