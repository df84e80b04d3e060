package kvm

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCapNames(t *testing.T) {
	for c, want := range map[Cap]string{
		CapIRQChip:        "KVM_CAP_IRQCHIP",
		CapXSave2:         "KVM_CAP_XSAVE2",
		CapPreFaultMemory: "KVM_CAP_PRE_FAULT_MEMORY",
		Cap(9999):         "KVM_CAP_9999",
	} {
		if got := c.String(); got != want {
			t.Errorf("%d: %q, want %q", uint32(c), got, want)
		}
	}
}

func TestCapsSnapshot(t *testing.T) {
	g := newGuest(t, guestOptions{})
	for name, take := range map[string]func() (Caps, error){"system": g.sys.Caps, "VM": g.vm.Caps} {
		caps, err := take()
		g.ok(err)
		for _, c := range []Cap{CapUserMemory, CapIRQChip, CapIOEventFD, CapIRQFD, CapImmediateExit, CapCheckExtensionVM} {
			if !caps.Has(c) {
				t.Errorf("%s: %v is missing; no supported host lacks it", name, c)
			}
		}
		if n := caps[CapNrMemslots]; n < 32 {
			t.Errorf("%s: %v is %d", name, CapNrMemslots, n)
		}
		for _, c := range caps.Sorted() {
			v, err := g.vm.CheckExtension(c)
			if err != nil || v <= 0 {
				t.Errorf("%s: %v is in the snapshot, KVM says %d, %v", name, c, v, err)
			}
		}
	}
}

func TestRequireNamesTheCapability(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.ok(g.vm.Require(CapUserMemory, CapIRQChip))
	g.ok(g.sys.Require())
	const none = Cap(0x7ffffff0) // no kernel has it
	err := g.vm.Require(CapUserMemory, none)
	wantErr(t, err, ErrNotSupported)
	var ce *CapError
	if !errors.As(err, &ce) || ce.Cap != none {
		t.Errorf("error %v, want a CapError naming %v", err, none)
	}
}

// fakeExtender answers CheckExtension with a constant.
type fakeExtender struct {
	value int
	err   error
}

func (f fakeExtender) CheckExtension(Cap) (int, error) { return f.value, f.err }

func TestExplain(t *testing.T) {
	einval := os.NewSyscallError("KVM_X", unix.EINVAL)
	enomem := os.NewSyscallError("KVM_X", unix.ENOMEM)
	for _, c := range []struct {
		name        string
		err         error
		ext         fakeExtender
		unsupported bool
	}{
		{"success", nil, fakeExtender{0, nil}, false},
		{"missing", einval, fakeExtender{0, nil}, true},
		{"present", einval, fakeExtender{1, nil}, false},
		{"another errno", enomem, fakeExtender{0, nil}, false},
		{"cannot ask", einval, fakeExtender{0, os.ErrClosed}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := explain(c.err, c.ext, CapSregs2)
			if !c.unsupported {
				if got != c.err { //nolint:errorlint // the same value, not one that wraps it
					t.Errorf("%v became %v", c.err, got)
				}
				return
			}
			wantErr(t, got, ErrNotSupported)
			wantErr(t, got, unix.EINVAL)
			if !strings.Contains(got.Error(), "KVM_CAP_SREGS2") || !strings.Contains(got.Error(), "KVM_X") {
				t.Errorf("%q names neither capability nor ioctl", got)
			}
		})
	}
}

// TestMissingCapabilities tries features that some hosts lack: where they are
// missing the error has to say so.
func TestMissingCapabilities(t *testing.T) {
	g := newGuest(t, guestOptions{memory: 1 << 20})
	for _, c := range []struct {
		cap Cap
		try func() error
	}{
		{CapVMTSCControl, func() error { return g.vm.SetTSCKHz(1_000_000) }},
		{CapPreFaultMemory, func() error { return g.vcpu.PreFault(0, 4096) }},
		{CapSysAttributes, func() error { _, err := g.sys.XCompGuestSupport(); return err }},
		{CapSregs2, func() error { _, err := g.vcpu.Sregs2(); return err }},
		{CapBinaryStatsFD, func() error {
			s, err := g.vm.StatsFD()
			if err == nil {
				err = s.Close()
			}
			return err
		}},
		{CapPMUCapability, func() error { return g.vm.EnableCap(CapPMUCapability, 0) }},
	} {
		t.Run(c.cap.String(), func(t *testing.T) {
			has, err := g.vm.CheckExtension(c.cap)
			g.ok(err)
			err = c.try()
			if has > 0 {
				if errors.Is(err, ErrNotSupported) {
					t.Errorf("KVM has it, yet: %v", err)
				}
				return
			}
			wantErr(t, err, ErrNotSupported)
			var ce *CapError
			if !errors.As(err, &ce) || ce.Cap != c.cap {
				t.Errorf("error %v does not name %v", err, c.cap)
			}
		})
	}
}
