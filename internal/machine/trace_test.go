package machine

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
)

// chatter reads from one port and writes to another for ever.
var chatter = []byte{
	0xe4, 0x64, // in al, 0x64
	0xb0, 0x41, // mov al, 'A'
	0xba, 0xf8, 0x03, 0, 0, // mov edx, 0x3f8
	0xee,       // out dx, al
	0xeb, 0xf4, // again
}

func TestATraceTellsWhatIsWanted(t *testing.T) {
	m := newMachine(t, Config{SerialOut: io.Discard}, chatter...)
	m.start(t, t.Context())
	enough := errors.New("enough")
	var got []Traced
	wants := func(e vcpu.Exit) bool { return e.Reason == kvm.ExitIO && e.Write }
	err := m.Trace(t.Context(), wants, func() {
		if err := m.Trace(t.Context(), wants, func() {}, nil); !errors.Is(err, ErrTraced) {
			t.Errorf("a second trace: %v", err)
		}
	}, func(e Traced) error {
		if got = append(got, e); len(got) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	for _, e := range got {
		if e.Addr != 0x3f8 || e.Value != 'A' || e.Size != 1 || e.Count != 1 || e.Device != "com1" || e.At.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = m.Trace(ctx, func(e vcpu.Exit) bool { return !e.Write }, func() {}, func(e Traced) error {
		if e.Reason == kvm.ExitIO && (e.Addr != 0x64 || e.Device != "i8042") {
			t.Errorf("%+v", e)
		}
		cancel()
		return nil
	})
	if err != nil {
		t.Errorf("a trace that was called off: %v", err)
	}
}

func TestASlowListenerMissesExitsAndKnows(t *testing.T) {
	m := newMachine(t, Config{SerialOut: io.Discard}, chatter...)
	m.start(t, t.Context())
	enough := errors.New("enough")
	n := 0
	err := m.Trace(t.Context(), func(vcpu.Exit) bool { return true }, func() {}, func(e Traced) error {
		if n++; n == 1 { // while we are here the guest goes on
			pio := m.Counters()["exit_pio_total"]
			eventually(t, "more exits than can wait", func() bool { return m.Counters()["exit_pio_total"] > pio+2*traceBuffer })
		}
		if e.Dropped > 0 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("%v after %d exits", err, n)
	}
}

// The end of the guest is not the end of a trace, which its owner ends; but none
// begins after it.
func TestNoTraceAfterTheEnd(t *testing.T) {
	m := newMachine(t, Config{}, 0xf4)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.Run(ctx)
	if err := m.Trace(t.Context(), nil, func() {}, nil); !errors.Is(err, ErrEnded) {
		t.Errorf("%v", err)
	}
}
