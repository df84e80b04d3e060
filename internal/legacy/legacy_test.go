package legacy_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/hvctl/hvctl/internal/legacy"
	"github.com/hvctl/hvctl/internal/state"
)

type port struct {
	*legacy.Serial
	out    bytes.Buffer
	raised int
}

func newPort() *port {
	p := &port{}
	p.Serial = legacy.NewSerial(&p.out, func() { p.raised++ })
	return p
}

func (p *port) in(off uint64) uint8 {
	b := []byte{0xff}
	p.ReadAt(off, b)
	return b[0]
}

func (p *port) outb(off uint64, v uint8) { p.WriteAt(off, []byte{v}) }

func TestSerialWritesWhatTheGuestSends(t *testing.T) {
	p := newPort()
	for _, c := range []byte("ok\n") {
		if p.in(5)&0x20 == 0 {
			t.Fatal("transmitter not ready")
		}
		p.outb(0, c)
	}
	if got := p.out.String(); got != "ok\n" {
		t.Errorf("output %q", got)
	}
	if p.raised != 0 {
		t.Errorf("%d interrupts with all of them masked", p.raised)
	}
}

func TestSerialTransmitInterruptIsAcknowledgedByReadingIIR(t *testing.T) {
	p := newPort()
	p.outb(1, 2)
	if p.raised != 1 {
		t.Fatalf("enabling raised %d interrupts, want 1: the register is empty", p.raised)
	}
	if iir := p.in(2); iir != 2 {
		t.Errorf("IIR = %#x, want 2", iir)
	}
	if iir := p.in(2); iir != 1 {
		t.Errorf("IIR after acknowledgement = %#x, want 1", iir)
	}
	p.outb(0, 'x')
	if p.raised != 2 || p.in(2) != 2 {
		t.Errorf("a sent byte raised %d interrupts in all", p.raised)
	}
}

func TestSerialReceivesAndBlocksWhenFull(t *testing.T) {
	p := newPort()
	p.outb(1, 1)
	msg := []byte("0123456789abcdefXYZ") // three more than the FIFO holds
	done := make(chan struct{})
	go func() { p.Feed(msg); close(done) }()
	var got []byte
	for len(got) < len(msg) {
		if p.in(5)&1 != 0 {
			got = append(got, p.in(0))
		}
	}
	<-done
	if !bytes.Equal(got, msg) {
		t.Errorf("received %q", got)
	}
	full := make(chan struct{})
	go func() { p.Feed(make([]byte, 100)); close(full) }()
	p.Close()
	<-full // a closed port never holds its feeder
}

func TestSerialLoopbackNeverReachesOutput(t *testing.T) {
	p := newPort()
	p.outb(4, 0x1f)
	for i := range 20 {
		p.outb(0, byte(i))
	}
	if p.out.Len() != 0 {
		t.Errorf("%d bytes left the port in loopback", p.out.Len())
	}
	if lsr := p.in(5); lsr&3 != 3 {
		t.Errorf("LSR = %#x, want data ready and overrun", lsr)
	}
	if msr := p.in(6); msr&0xf0 != 0xf0 {
		t.Errorf("MSR = %#x, want the four outputs looped back", msr)
	}
}

func TestSerialStateRoundTrip(t *testing.T) {
	p := newPort()
	p.outb(3, 0x83) // DLAB
	p.outb(0, 1)
	p.outb(3, 0x03)
	p.outb(1, 5)
	p.Feed([]byte("abc"))
	sec, err := state.Save("serial", p)
	if err != nil {
		t.Fatal(err)
	}
	q := newPort()
	before, _ := q.SaveState()
	if after, _ := p.SaveState(); reflect.DeepEqual(before, after) {
		t.Fatal("a programmed port saves like a fresh one")
	}
	if err := state.Load(sec, q); err != nil {
		t.Fatal(err)
	}
	a, _ := p.SaveState()
	b, _ := q.SaveState()
	if !reflect.DeepEqual(a, b) {
		t.Errorf("loaded %+v, want %+v", b, a)
	}
	if q.in(0) != 'a' {
		t.Error("received bytes were lost")
	}
}

func TestResetPorts(t *testing.T) {
	n := 0
	k := legacy.Keyboard{Reset: func() { n++ }}
	c := legacy.ResetControl{Reset: func() { n++ }}
	k.WriteAt(4, []byte{0xd1})
	k.WriteAt(0, []byte{0xfe}) // data port, not a command
	c.WriteAt(0, []byte{0x02}) // chooses the kind of reset only
	if n != 0 {
		t.Fatalf("%d resets asked for by harmless writes", n)
	}
	k.WriteAt(4, []byte{0xfe})
	c.WriteAt(0, []byte{0x06})
	if n != 2 {
		t.Errorf("%d resets, want 2", n)
	}
}

// FuzzSerial: no sequence of guest accesses may panic or grow the port.
func FuzzSerial(f *testing.F) {
	f.Add([]byte{0x80, 0x41, 0x81, 0x03, 0x00, 0x02})
	f.Fuzz(func(t *testing.T, ops []byte) {
		p := newPort()
		for i := 0; i+1 < len(ops); i += 2 {
			off := uint64(ops[i] & 7)
			if ops[i]&0x80 != 0 {
				p.outb(off, ops[i+1])
			} else {
				p.ReadAt(off, make([]byte, 1+ops[i+1]%8))
			}
		}
		v, err := p.SaveState()
		if err != nil {
			t.Fatal(err)
		}
		if n := reflect.ValueOf(v).FieldByName("Rx").Len(); n > 16 {
			t.Fatalf("receive FIFO grew to %d", n)
		}
	})
}
