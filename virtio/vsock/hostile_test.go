package vsock_test

import (
	"errors"
	"io"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/virtio/virtiotest"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// Packets to or from somebody who does not exist vanish, as with vhost.
func TestWrongAddressesAreDropped(t *testing.T) {
	dev := newDevice(t)
	listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	for _, a := range [][2]uint64{{cid, 3}, {cid, cid}, {2, 2}, {cid + 1, 2}, {cid | 1<<32, 2}, {cid, 2 | 1<<32}, {0, 0}, {^uint64(0), 2}} {
		p := g.op(5000, 99, opRequest)
		p.src, p.dst = a[0], a[1]
		g.send(p)
	}
	g.silent()
	if n := dev.Metrics().(*vsock.Metrics).Refused.Load(); n != 8 {
		t.Errorf("%d packets refused", n)
	}
}

func TestUnknownTypesAreReset(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	g.connect(l, 5000, 99)
	for _, kind := range []uint16{0, 2, 3, 0xffff} {
		p := g.op(5000, 99, opRequest)
		p.kind = kind
		g.send(p)
		if r := g.want(opReset, 5000, 99); r.kind != kind {
			t.Errorf("type %d answered with type %d", kind, r.kind)
		}
		p.op = opReset
		g.send(p)
	}
	g.silent()
	if _, known := dev.Live(); known != 1 {
		t.Error("packets of another type hurt a stream")
	}
}

// What does not fit the state of a connection ends it, once.
func TestWrongOperationsEndTheConnection(t *testing.T) {
	for _, op := range []uint16{0, opRequest, opResponse, 8, 0xffff} {
		dev := newDevice(t)
		l := listen(t, dev, 99)
		g := newGuest(t, dev, 32)
		c := g.connect(l, 5000, 99)
		g.send(g.op(5000, 99, op))
		g.want(opReset, 5000, 99)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("op %d: %v", op, err)
		}
		g.send(g.op(5000, 99, opReset))
		g.silent()
	}
	// Without a connection everything but a reset gets one.
	dev := newDevice(t)
	g := newGuest(t, dev, 32)
	for _, op := range []uint16{0, opResponse, opShutdown, opData, opCreditUpdate, opCreditRequest, 8, 0xffff} {
		g.send(g.op(5000, 99, op))
		g.want(opReset, 5000, 99)
	}
	g.silent()
}

// Data, or anything but the answer, before the answer to our request.
func TestWrongAnswersToADial(t *testing.T) {
	dev := newDevice(t)
	g := newGuest(t, dev, 32)
	for _, op := range []uint16{opData, opShutdown, opCreditUpdate, opCreditRequest, opRequest, 0} {
		dialed := make(chan error)
		go func() {
			_, err := dev.Dial(t.Context(), 22)
			dialed <- err
		}()
		p := g.recv()
		g.send(g.op(22, p.srcPort, op))
		if err := <-dialed; !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("op %d: %v", op, err)
		}
		g.want(opReset, 22, p.srcPort)
	}
	if slots, _ := dev.Live(); slots != 0 {
		t.Errorf("%d slots in use", slots)
	}
}

func TestDataAfterShutdownIsRefused(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	p := g.op(5000, 99, opShutdown)
	p.flags = noSend | 0xfffffffc // bits nobody knows
	g.send(p)
	p = g.op(5000, 99, opData)
	p.data = []byte("x")
	g.send(p)
	g.want(opReset, 5000, 99)
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestMalformedPacketsStopTheDevice(t *testing.T) {
	header := packet{src: cid, dst: 2, srcPort: 5000, dstPort: 99, kind: 1, op: opData}
	long, huge := header, header
	long.len, huge.len = 11, 0xffffffff
	for name, b := range map[string]struct {
		queue int
		bufs  []virtiotest.Buf
	}{
		"short header":       {tx, []virtiotest.Buf{virtiotest.Out(header.bytes()[:43])}},
		"one byte":           {tx, []virtiotest.Buf{virtiotest.Out([]byte{1})}},
		"length beyond":      {tx, []virtiotest.Buf{virtiotest.Out(long.bytes()), virtiotest.Out(make([]byte, 10))}},
		"length 4 GiB":       {tx, []virtiotest.Buf{virtiotest.Out(huge.bytes()), virtiotest.Out(make([]byte, 10))}},
		"writable packet":    {tx, []virtiotest.Buf{virtiotest.In(64)}},
		"writable part":      {tx, []virtiotest.Buf{virtiotest.Out(header.bytes()), virtiotest.In(64)}},
		"short receive":      {rx, []virtiotest.Buf{virtiotest.In(43)}},
		"readable receive":   {rx, []virtiotest.Buf{virtiotest.Out(make([]byte, 64)), virtiotest.In(4096)}},
		"only readable":      {rx, []virtiotest.Buf{virtiotest.Out(make([]byte, 64))}},
		"receive just right": {rx, []virtiotest.Buf{virtiotest.In(44)}},
	} {
		t.Run(name, func(t *testing.T) {
			dev := newDevice(t)
			g := newGuest(t, dev, 0)
			g.d.Queue(b.queue).Add(b.bufs...)
			g.d.Queue(b.queue).Kick()
			if b.queue == rx { // read only when there is something to say
				g.offer(g.op(1, 1, opRequest))
			}
			if name == "receive just right" {
				g.d.Queue(rx).Wait()
				return
			}
			g.d.WaitNeedsReset()
			g.d.Renew()
			g.renew(8)
			g.send(g.op(5000, 99, opRequest))
			g.want(opReset, 5000, 99)
		})
	}
}

func TestMalformedEventBuffers(t *testing.T) {
	for name, b := range map[string]virtiotest.Buf{"short": virtiotest.In(3), "readable": virtiotest.Out(make([]byte, 4))} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, newDevice(t), 8)
			g.d.Stop()
			_, sec := g.d.Save()
			g.d.Resume()
			dev := newDevice(t)
			if err := loadState(sec, dev); err != nil {
				t.Fatal(err)
			}
			g2 := virtiotest.New(t, dev, virtiotest.Options{})
			g2.Negotiate() // no reset first: the event stays due
			g2.SetupQueues()
			g2.DriverOK()
			g2.Queue(events).Add(b)
			g2.Queue(events).Kick()
			g2.WaitNeedsReset()
		})
	}
}

// §2.7.4.1: no assumption on how a packet is spread over descriptors.
func TestAnyFraming(t *testing.T) {
	for _, cuts := range [][]int{{1, 2, 3}, {43}, {44}, {45}, {20, 44, 50}, {8, 16, 24, 32, 40, 48}} {
		dev := newDevice(t)
		l := listen(t, dev, 99)
		g := newGuest(t, dev, 8)
		c := g.connect(l, 5000, 99)
		p := g.op(5000, 99, opData)
		p.data = pattern(20)
		whole := append(p.bytes(), "not part of it"...)
		var bufs []virtiotest.Buf
		from := 0
		for _, to := range append(slices.Clone(cuts), len(whole)) {
			bufs = append(bufs, virtiotest.Out(whole[from:to]))
			from = to
		}
		g.d.Queue(tx).Add(bufs...)
		g.d.Queue(tx).Kick()
		g.d.Queue(tx).Wait()
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, buf[:n], p.data)
	}

	// And the other way round, into odd receive buffers.
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 0)
	g.send(g.op(5000, 99, opRequest))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	g.d.Queue(rx).Do(virtiotest.In(40), virtiotest.In(4)) // the response
	wrote := make(chan error)
	go func() {
		_, err := c.Write(pattern(300))
		wrote <- err
	}()
	var got []byte
	for _, sizes := range [][]int{{44, 6}, {1, 43, 100}, {20, 20, 20, 20}, {45}, {44}, {4096}} {
		var bufs []virtiotest.Buf
		n := 0
		for _, s := range sizes {
			bufs = append(bufs, virtiotest.In(s))
			n += s
		}
		u := g.d.Queue(rx).Do(bufs...)
		p := parsePacket(u.In[:u.Written])
		switch {
		case n == 44 && p.op != opCreditUpdate:
			t.Errorf("into a buffer without room for data came %v", p)
		case n != 44 && (p.op != opData || len(p.data) != min(n-44, 300-len(got))):
			t.Errorf("into %d bytes came %v", n, p)
		}
		got = append(got, p.data...)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	wantBytes(t, got, pattern(300))
}

func TestGuestBeyondItsCreditLosesTheConnection(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	other := g.connect(l, 5001, 99)
	p := g.op(5000, 99, opData)
	p.data = pattern(64 << 10)
	for range vsock.WindowMax / len(p.data) {
		g.send(p)
	}
	g.silent() // all of that was promised
	p.data = []byte{1}
	g.send(p)
	g.want(opReset, 5000, 99)
	if b, err := io.ReadAll(c); len(b) != vsock.WindowMax || !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	p = g.op(5001, 99, opData)
	p.data = []byte("unharmed")
	g.send(p)
	if n, err := other.Read(make([]byte, 100)); n != 8 || err != nil {
		t.Errorf("other connection: %d, %v", n, err)
	}
}

func TestReaderGivesCreditBack(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 32)
	c := g.connect(l, 5000, 99)
	p := g.op(5000, 99, opData)
	p.data = pattern(64 << 10)
	buf := make([]byte, 64<<10)
	read := func() {
		t.Helper()
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, buf, p.data)
	}
	g.send(p)
	read()
	g.silent() // plenty left
	g.send(p)
	read()
	if u := g.want(opCreditUpdate, 5000, 99); u.fwdCnt != 128<<10 || u.bufAlloc != vsock.WindowMax {
		t.Errorf("credit %v", u)
	}
	g.send(p)
	g.send(g.op(5000, 99, opCreditRequest))
	if u := g.want(opCreditUpdate, 5000, 99); u.fwdCnt != 128<<10 {
		t.Errorf("credit %v: what nobody read is no room", u)
	}
	read()
	g.silent() // half the window has not passed since
	g.send(p)
	end := g.op(5000, 99, opShutdown)
	end.flags = noSend
	g.send(end)
	read()
	g.silent() // who sends no more needs no credit
}

func TestWriterKeepsToTheGuestsCredit(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 64)
	g.bufAlloc = 10000
	c := g.connect(l, 5000, 99)
	data := pattern(25000)
	wrote := make(chan error)
	go func() {
		_, err := c.Write(data)
		wrote <- err
	}()
	var got []byte
	until := func(n int) {
		t.Helper()
		for len(got) < n {
			got = append(got, g.want(opData, 5000, 99).data...)
		}
		if len(got) != n {
			t.Fatalf("device sent %d bytes, credit was for %d", len(got), n)
		}
	}
	until(10000)
	g.want(opCreditRequest, 5000, 99)
	g.silent()
	g.send(g.op(5000, 99, opCreditUpdate)) // nothing new: asking again would not help
	g.silent()
	g.fwdCnt = 4000
	g.send(g.op(5000, 99, opCreditUpdate))
	until(14000)
	g.want(opCreditRequest, 5000, 99)
	g.bufAlloc = 9000 // takes some back
	g.send(g.op(5000, 99, opCreditUpdate))
	g.fwdCnt = 20000 // says it got what was never sent
	g.send(g.op(5000, 99, opCreditUpdate))
	g.silent()
	g.fwdCnt, g.bufAlloc = 14000, 0xffffffff
	g.send(g.op(5000, 99, opCreditUpdate))
	until(25000)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	wantBytes(t, got, data)
}

// The transmit queue is served while nothing can be received, up to a limit,
// and goes on when the driver has taken its answers.
func TestFloodWithoutReceiveBuffers(t *testing.T) {
	dev := newDevice(t)
	g := newGuest(t, dev, 0)
	taken := 0
	for range vsock.MaxResets {
		g.send(g.op(5000, 98, opRequest))
		taken++
	}
	for range 16 {
		g.offer(g.op(5000, 98, opRequest))
	}
	g.d.Queue(tx).Settle()
	if g.reclaim(false); len(g.busy) != 16 {
		t.Fatalf("%d packets taken beyond the limit", 16-len(g.busy))
	}
	if err := dev.Check(); err != nil {
		t.Error(err)
	}
	for range 64 {
		g.addRx(g.d.Alloc(4096, 8))
	}
	g.d.Queue(rx).Kick()
	for range taken + 16 {
		g.want(opReset, 5000, 98)
	}
	g.reclaim(true)
	g.silent()
}

// Connections that come and go cost nothing: no slot, no place in the backlog.
func TestFloodOfConnections(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 64)
	for i := range uint32(3000) {
		g.send(g.op(5000+i, 99, opRequest))
		g.want(opResponse, 5000+i, 99)
		g.send(g.op(5000+i, 99, opReset))
	}
	if slots, known := dev.Live(); slots != 0 || known != 0 {
		t.Errorf("%d slots, %d connections", slots, known)
	}
	g.connect(l, 1, 99)
	for i := range uint32(vsock.Backlog) {
		g.send(g.op(5000+i, 99, opRequest))
		g.want(opResponse, 5000+i, 99)
	}
	g.send(g.op(4000, 99, opRequest))
	g.want(opReset, 4000, 99)
	if slots, _ := dev.Live(); slots != 1+vsock.Backlog {
		t.Errorf("%d slots", slots)
	}
}

// A connection that the host's side has not closed holds its slot even when
// the guest has left: else guests could pile them up.
func TestSlotsAreBounded(t *testing.T) {
	dev := newDevice(t)
	l := listen(t, dev, 99)
	g := newGuest(t, dev, 64)
	conns := make([]*vsock.Conn, 0, vsock.MaxConns)
	windows := map[uint32]int{}
	for i := range uint32(vsock.MaxConns) {
		g.send(g.op(i, 99, opRequest))
		windows[g.want(opResponse, i, 99).bufAlloc]++
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c.(*vsock.Conn))
		if i%2 == 0 {
			p := g.op(i, 99, opData)
			p.data = pattern(1000)
			g.send(p)
			g.send(g.op(i, 99, opReset))
		}
	}
	if len(windows) != 2 || windows[vsock.WindowMax] == 0 || windows[vsock.WindowMin] < vsock.MaxConns/2 {
		t.Errorf("windows %v", windows)
	}
	g.send(g.op(70000, 99, opRequest))
	g.want(opReset, 70000, 99)
	if _, err := dev.Dial(t.Context(), 5); !errors.Is(err, vsock.ErrTooMany) {
		t.Errorf("dial: %v", err)
	}
	for i, c := range conns {
		if i%2 == 0 {
			if b, err := io.ReadAll(c); len(b) != 1000 || !errors.Is(err, unix.ECONNRESET) {
				t.Fatalf("read %d, %v", len(b), err)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if i%2 != 0 {
			g.want(opShutdown, uint32(i), 99)
			g.send(g.op(uint32(i), 99, opReset))
		}
	}
	if slots, known := dev.Live(); slots != 0 || known != 0 {
		t.Errorf("%d slots, %d connections", slots, known)
	}
	c := g.connect(l, 1, 99)
	_ = c
}
