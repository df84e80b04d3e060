package vsock_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
	"github.com/hvctl/hvctl/virtio/vsock"
)

func TestGuestDialsHost(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	if got := c.RemoteAddr().String() + " " + c.LocalAddr().String() + " " + c.RemoteAddr().Network(); got != "7:5000 2:99 vsock" {
		t.Errorf("addresses %s", got)
	}

	p := g.op(5000, 99, opData)
	p.data = []byte("hello host")
	g.send(p)
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != "hello host" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}

	if n, err := c.Write([]byte("hello guest")); n != 11 || err != nil {
		t.Fatalf("write %d, %v", n, err)
	}
	if p := g.want(opData, 5000, 99); string(p.data) != "hello guest" || p.fwdCnt != 10 {
		t.Errorf("guest got %v %q", p, p.data)
	}
}

func TestHostDialsGuest(t *testing.T) {
	dev := newDevice(t)
	g := newGuest(t, dev, 32)
	type result struct {
		c   *vsock.Conn
		err error
	}
	dialed := make(chan result)
	dial := func(ctx context.Context) {
		c, err := dev.Dial(ctx, 22)
		dialed <- result{c, err}
	}

	go dial(t.Context())
	p := g.recv()
	if p.op != opRequest || p.dstPort != 22 || p.bufAlloc == 0 {
		t.Fatalf("got %v", p)
	}
	g.send(g.op(22, p.srcPort, opResponse))
	r := <-dialed
	if r.err != nil {
		t.Fatal(r.err)
	}
	if a := r.c.RemoteAddr().String(); a != "7:22" {
		t.Errorf("remote address %s", a)
	}

	go dial(t.Context())
	p2 := g.recv()
	if p2.srcPort == p.srcPort {
		t.Error("the same address pair twice")
	}
	g.send(g.op(22, p2.srcPort, opReset))
	if r := <-dialed; !errors.Is(r.err, unix.ECONNREFUSED) {
		t.Errorf("a refused Dial: %v", r.err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	go dial(ctx)
	p3 := g.recv()
	cause := errors.New("enough")
	cancel(cause)
	if r := <-dialed; !errors.Is(r.err, cause) {
		t.Errorf("a cancelled Dial: %v", r.err)
	}
	g.want(opReset, 22, p3.srcPort)
	if _, err := dev.Dial(ctx, 22); !errors.Is(err, cause) {
		t.Errorf("Dial with an ended context: %v", err)
	}
	g.silent()
	if slots, known := dev.Live(); slots != 1 || known != 1 {
		t.Errorf("%d slots, %d connections", slots, known)
	}
}

// A guest's driver begins with a reset; who dialed before that is not harmed.
func TestDialWaitsForADriver(t *testing.T) {
	dev := newDevice(t)
	dialed := make(chan error)
	go func() {
		_, err := dev.Dial(t.Context(), 22)
		dialed <- err
	}()
	virtiotest.Poll(func() bool { slots, _ := dev.Live(); return slots == 1 })
	g := newGuest(t, dev, 8)
	p := g.recv()
	if p.op != opRequest || p.dstPort != 22 || p.srcPort < 1<<30 {
		t.Fatalf("got %v", p)
	}
	g.send(g.op(22, p.srcPort, opResponse))
	if err := <-dialed; err != nil {
		t.Error(err)
	}
}

func TestAbandonedDialsLeaveNothing(t *testing.T) {
	dev := newDevice(t)
	ctx, cancel := context.WithCancel(t.Context())
	dialed := make(chan error)
	for range 3 * vsock.MaxConns {
		go func() {
			_, err := dev.Dial(ctx, 22)
			dialed <- err
		}()
	}
	full := 0
	for full < 2*vsock.MaxConns {
		if err := <-dialed; !errors.Is(err, vsock.ErrTooMany) {
			t.Fatal(err)
		}
		full++
	}
	cancel()
	for range vsock.MaxConns {
		if err := <-dialed; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if slots, _ := dev.Live(); slots != 0 {
		t.Errorf("%d slots in use", slots)
	}
	g := newGuest(t, dev, 8)
	g.silent()
}

func TestRefusedPorts(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	if _, err := dev.Listen(99); !errors.Is(err, vsock.ErrPortInUse) {
		t.Errorf("second listener: %v", err)
	}
	g := newGuest(t, dev, 32)
	g.send(g.op(5000, 98, opRequest))
	g.want(opReset, 5000, 98)
	g.send(g.op(5000, 98, opReset)) // no reset answers a reset
	g.silent()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	g.send(g.op(5000, 99, opRequest))
	g.want(opReset, 5000, 99)
	listen(t, dev, 99)
}

func TestCloseOfListenerResetsWhoWaits(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 4999, 99)
	accepted := make(chan error)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	g.send(g.op(5000, 99, opRequest))
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	g.want(opResponse, 5000, 99)
	g.send(g.op(5001, 99, opRequest))
	g.want(opResponse, 5001, 99)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	g.want(opReset, 5001, 99)
	g.silent()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("the accepted one broke: %v", err)
	}
	if slots, known := dev.Live(); slots != 2 || known != 2 {
		t.Errorf("%d slots, %d connections", slots, known)
	}
}

func TestHalfClose(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)

	// The guest ends its direction: what it sent before still arrives.
	p := g.op(5000, 99, opData)
	p.data = []byte("last words")
	g.send(p)
	p = g.op(5000, 99, opShutdown)
	p.flags = noSend
	g.send(p)
	if b, err := io.ReadAll(c); string(b) != "last words" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	if _, err := c.Write([]byte("still here")); err != nil {
		t.Error(err)
	}
	if p := g.want(opData, 5000, 99); string(p.data) != "still here" {
		t.Errorf("guest got %q", p.data)
	}
	// Then the host ends its own, and the guest closes.
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if p := g.want(opShutdown, 5000, 99); p.flags != noSend {
		t.Errorf("flags %d", p.flags)
	}
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	p = g.op(5000, 99, opShutdown)
	p.flags = noReceive // the other bit was permanent
	g.send(p)
	g.want(opReset, 5000, 99)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read after the end: %v", err)
	}
	g.silent()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if slots, known := dev.Live(); slots != 0 || known != 0 {
		t.Errorf("%d slots, %d connections", slots, known)
	}
}

func TestGuestWillNotReceive(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 0)
	g.send(g.op(5000, 99, opRequest))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error)
	go func() {
		_, err := c.Write([]byte("nobody takes this"))
		wrote <- err
	}()
	p := g.op(5000, 99, opShutdown)
	p.flags = noReceive
	g.send(p)
	if err := <-wrote; !errors.Is(err, unix.EPIPE) {
		t.Errorf("write: %v", err)
	}
	p = g.op(5000, 99, opData)
	p.data = []byte("the other way works")
	g.send(p)
	buf := make([]byte, 64)
	if n, err := c.Read(buf); err != nil || n != len(p.data) {
		t.Errorf("read %d, %v", n, err)
	}
}

// A reset without a shutdown before it may have cut data off: it is no EOF.
func TestResetIsAnError(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	g.want(opShutdown, 5000, 99)
	p := g.op(5000, 99, opData)
	p.data = []byte("half of it")
	g.send(p)
	g.send(g.op(5000, 99, opReset))
	if b, err := io.ReadAll(c); string(b) != "half of it" || !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read %q, %v", b, err)
	}
	var op *net.OpError
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &op) || op.Addr.String() != "7:5000" {
		t.Errorf("error %v does not say where", err)
	}
	g.silent()
}

func TestCloseIsCleanWhenTheGuestAnswers(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	p := g.op(5000, 99, opData)
	p.data = pattern(60000)
	g.send(p)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if p := g.want(opShutdown, 5000, 99); p.flags != noSend|noReceive {
		t.Errorf("flags %d", p.flags)
	}
	for _, f := range []func() error{
		func() error { _, err := c.Read(make([]byte, 1)); return err },
		func() error { _, err := c.Write(make([]byte, 1)); return err },
		c.CloseWrite,
		func() error { return c.SetDeadline(time.Now()) },
	} {
		if err := f(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	g.send(p) // was on its way
	if err := dev.Check(); err != nil {
		t.Error(err)
	}
	if slots, known := dev.Live(); slots != 1 || known != 1 {
		t.Errorf("%d slots, %d connections before the guest's answer", slots, known)
	}
	g.send(g.op(5000, 99, opReset))
	if slots, known := dev.Live(); slots != 0 || known != 0 {
		t.Errorf("%d slots, %d connections", slots, known)
	}
	g.silent()
	g.connect(l, 5000, 99) // the address pair is free again
}

// Who waits in Read or Write learns of Close and CloseWrite at once.
func TestCloseWakesWhoWaits(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	g.bufAlloc = 0 // no credit
	for guestPort, c := range map[uint32]struct {
		end         func(*vsock.Conn) error
		read, write error
	}{
		5000: {(*vsock.Conn).Close, net.ErrClosed, net.ErrClosed},
		5001: {(*vsock.Conn).CloseWrite, nil, unix.EPIPE},
	} {
		conn := g.connect(l, guestPort, 99)
		read, write := make(chan error, 1), make(chan error)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			read <- err
		}()
		go func() {
			_, err := conn.Write(make([]byte, 1))
			write <- err
		}()
		g.want(opCreditRequest, guestPort, 99) // so Write waits
		if err := c.end(conn); err != nil {
			t.Fatal(err)
		}
		if err := <-write; !errors.Is(err, c.write) {
			t.Errorf("write: %v", err)
		}
		if c.read != nil {
			if err := <-read; !errors.Is(err, c.read) {
				t.Errorf("read: %v", err)
			}
		}
		g.want(opShutdown, guestPort, 99)
	}
	g.silent()
}

func TestCloseGivesUpOnASilentGuest(t *testing.T) {
	dev := newDevice(t)
	dev.SetCloseTimeout(time.Millisecond)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	g.want(opShutdown, 5000, 99)
	g.want(opReset, 5000, 99)
	if slots, known := dev.Live(); slots != 0 || known != 0 {
		t.Errorf("%d slots, %d connections", slots, known)
	}
}

func TestDeadlines(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	g.bufAlloc = 0
	c := g.connect(l, 5000, 99)
	past, soon := time.Now().Add(-time.Second), 5*time.Millisecond
	for name, try := range map[string]func() (int, error){
		"read":  func() (int, error) { return c.Read(make([]byte, 8)) },
		"write": func() (int, error) { return c.Write(make([]byte, 8)) },
	} {
		set := map[string]func(time.Time) error{"read": c.SetReadDeadline, "write": c.SetWriteDeadline}[name]
		for _, by := range []time.Time{past, time.Now().Add(soon)} {
			if err := set(by); err != nil {
				t.Fatal(err)
			}
			n, err := try()
			var timeout net.Error
			if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
		// A new one wakes who waits under none.
		if err := set(time.Time{}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := try()
			done <- err
		}()
		if err := set(past); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		if err := set(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	// What timed out was not sent, and the connection still works.
	g.want(opCreditRequest, 5000, 99)
	g.silent()
	g.bufAlloc = 4096
	g.send(g.op(5000, 99, opCreditUpdate))
	if _, err := c.Write([]byte("now")); err != nil {
		t.Error(err)
	}
	if p := g.want(opData, 5000, 99); string(p.data) != "now" {
		t.Errorf("guest got %q", p.data)
	}
}

func TestResetOfTheDriverEndsConnections(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	g.send(g.op(5001, 99, opRequest)) // nobody accepts this one
	g.want(opResponse, 5001, 99)
	read := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	g.d.Renew()
	g.renew(32)
	if err := <-read; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
	g.silent()
	if slots, known := dev.Live(); slots != 1 || known != 0 {
		t.Errorf("%d slots, %d connections: c alone is not closed", slots, known)
	}
	g.connect(l, 5001, 99) // and not the one from before
}

func TestCloseOfTheDeviceEndsEverything(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	ended := make(chan error)
	for _, f := range []func() error{
		func() error { _, err := c.Read(make([]byte, 1)); return err },
		func() error { _, err := l.Accept(); return err },
		func() error { _, err := dev.Dial(t.Context(), 5); return err },
	} {
		go func() { ended <- f() }()
	}
	g.recv() // the Dial's request
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if _, err := dev.Listen(1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen: %v", err)
	}
	if _, err := dev.Dial(t.Context(), 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial: %v", err)
	}
}

// Connections go on over a pause; what was written meanwhile arrives after it.
func TestPauseKeepsConnections(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	g.d.Stop()
	wrote := make(chan error)
	go func() {
		_, err := c.Write([]byte("patience"))
		wrote <- err
	}()
	g.d.Save()
	g.d.Resume()
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if p := g.want(opData, 5000, 99); string(p.data) != "patience" {
		t.Errorf("guest got %q", p.data)
	}
}

// After a restore the driver hears of the transport reset first, and of
// nothing else before it has acted on it.
func TestRestoreResetsTheTransport(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	g.connect(l, 5000, 99)
	ev := g.d.Queue(events)
	for range 8 { // as Linux does
		ev.Add(virtiotest.In(4))
	}
	ev.Kick()
	ev.Settle()
	if ev.UsedIdx() != 0 {
		t.Fatal("an event without a restore")
	}

	second := newDevice(t)
	l2 := listen(t, second, 99)
	g.d.Restore(func() virtio.Device { return second }, nil)
	u := ev.Wait()
	if u.Written != 4 || string(u.In) != "\x00\x00\x00\x00" {
		t.Errorf("event %x of %d bytes", u.In, u.Written)
	}
	// The driver may still send on what it has not dropped yet, and open anew.
	g.send(g.op(5000, 99, opData))
	g.send(g.op(5001, 99, opRequest))
	if c, err := l2.Accept(); err != nil || c.RemoteAddr().String() != "7:5001" {
		t.Fatal(c, err)
	}
	g.silent()
	ev.Settle()
	g.silent()
	ev.Add(virtiotest.In(4))
	ev.Kick()
	g.want(opReset, 5000, 99)
	g.want(opResponse, 5001, 99)
	ev.Settle()
	if _, ok := ev.TryWait(); ok {
		t.Error("a second event")
	}
}

func TestRestoreOfAnotherAddressIsRefused(t *testing.T) {
	g := newGuest(t, newDevice(t), 1)
	g.d.Stop()
	_, sec := g.d.Save()
	other, err := vsock.New(vsock.Options{CID: cid + 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := loadState(sec, other); !errors.Is(err, virtio.ErrState) {
		t.Errorf("load: %v", err)
	}
}
