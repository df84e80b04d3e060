package irq_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/irq"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/kvm"
)

// What KVM raises by itself it takes out of the eventfd before anybody who waits for
// that is looked at (Linux 5.11): whoever forwards masked interrupts sleeps meanwhile.
// At any other time the signal stays there, and none is in neither place.
func TestKVMTakesTheSignalsThatItRaises(t *testing.T) {
	testenv.Require(t, testenv.KVM)
	sys, err := kvm.Open()
	ok(t, err)
	defer sys.Close()
	vm, err := sys.CreateVM()
	ok(t, err)
	defer vm.Close()
	ok(t, vm.CreateIRQChip())
	m, ev := irq.New(vm).NewMSI(), newEvent(t)
	left := func(what string, want bool) {
		t.Helper()
		var b [8]byte
		_, err := unix.Read(ev.FD(), b[:])
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		if got := err == nil; got != want {
			t.Errorf("%s: a signal is left in the eventfd: %v, want %v", what, got, want)
		}
	}
	ok(t, m.Bind(ev))
	ok(t, ev.Signal())
	left("no message", true)
	for range 3 {
		ok(t, m.Route(addr, 0x41))
		for range 3 {
			ok(t, ev.Signal())
			left("unmasked", false)
		}
		ok(t, m.Mask())
		ok(t, ev.Signal())
		left("masked", true)
	}
	ok(t, m.Route(addr, 0x42))
	ok(t, m.Unbind(ev))
	ok(t, ev.Signal())
	left("not bound", true)
	ok(t, m.Close())
}
