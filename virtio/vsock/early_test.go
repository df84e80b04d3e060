package vsock_test

import (
	"io"
	"testing"
)

// A process that prints a line and ends has hung up before a busy host gets to
// accept: the line is there all the same, and nothing is left afterwards.
func TestWhatWasSaidBeforeTheAcceptIsHeard(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	hangUp := func(port uint32, said string) {
		t.Helper()
		g.send(g.op(port, 99, opRequest))
		g.want(opResponse, port, 99)
		if said != "" {
			p := g.op(port, 99, opData)
			p.data = []byte(said)
			g.send(p)
		}
		p := g.op(port, 99, opShutdown)
		p.flags = noSend | noReceive
		g.send(p)
		g.want(opReset, port, 99)
	}
	hangUp(5000, "")
	hangUp(5001, "room\n")
	hangUp(5002, "never accepted")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != "room\n" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if slots, known := dev.Live(); slots != 0 || known != 0 {
		t.Errorf("%d slots, %d connections are left", slots, known)
	}
}
