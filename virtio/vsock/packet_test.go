package vsock

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/memory"
)

func vec(b ...[]byte) (v memory.Vec) {
	for _, x := range b {
		v.Append(x)
	}
	return v
}

func bare(t testing.TB) *Device {
	t.Helper()
	d, err := New(Options{CID: 7})
	if err != nil {
		t.Fatal(err)
	}
	d.nextPort = firstHostPort // not at random
	return d
}

func (d *Device) take(room []byte) (header, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resets.n == 0 && d.ready.head == nil {
		return header{}, false
	}
	return d.nextPacket(vec(room)), true
}

// The header's layout, byte by byte (§5.10.6).
func TestHeaderLayout(t *testing.T) {
	h := header{
		srcCID: 0x0807060504030201, dstCID: 0x100f0e0d0c0b0a09, srcPort: 0x14131211, dstPort: 0x18171615,
		len: 0x1c1b1a19, kind: 0x1e1d, op: 0x201f, flags: 0x24232221, bufAlloc: 0x28272625, fwdCnt: 0x2c2b2a29,
	}
	var b [headerSize]byte
	h.encode(&b)
	for i := range b {
		if b[i] != byte(i+1) {
			t.Fatalf("byte %d is %#02x", i, b[i])
		}
	}
	if got, n := parse(vec(b[:10], b[10:])); got != h || n != headerSize {
		t.Errorf("parsed %+v, %d bytes", got, n)
	}
	if _, n := parse(vec(b[:43])); n != 43 {
		t.Errorf("%d bytes of a short header", n)
	}
}

func TestBufferKeepsOrder(t *testing.T) {
	var p pool
	var b buffer
	var in, out []byte
	next := byte(0)
	for _, n := range []int{1, chunkSize - 1, chunkSize, chunkSize + 1, 7, 0, 3 * chunkSize, 100} {
		data := make([]byte, n)
		for i := range data {
			data[i] = next
			next = next*5 + 3
		}
		in = append(in, data...)
		b.write(&p, vec(data[:n/2], data[n/2:]))
		part := make([]byte, n/3+1)
		out = append(out, part[:b.read(&p, part)]...)
		if err := b.check(); err != nil {
			t.Fatal(err)
		}
		if b.n != len(in)-len(out) {
			t.Fatalf("%d bytes, want %d", b.n, len(in)-len(out))
		}
	}
	rest := make([]byte, len(in))
	out = append(out, rest[:b.read(&p, rest)]...)
	if !bytes.Equal(in, out) || b.n != 0 || b.head != nil {
		t.Errorf("%d bytes in, %d out, %d left, or they differ", len(in), len(out), b.n)
	}
	b.write(&p, vec(make([]byte, 100*chunkSize)))
	if b.clear(&p); b.n != 0 || b.head != nil || p.n != poolMax {
		t.Errorf("%d bytes left, %d chunks kept", b.n, p.n)
	}
}

func TestResetQueueIsARing(t *testing.T) {
	var q resetQueue
	in, out := uint32(0), uint32(0)
	for round := range 300 {
		for range round % 40 {
			q.push(header{srcPort: in})
			in++
		}
		for q.n > 0 && (round%3 != 0 || q.n > 20) {
			if h := q.pop(); h.srcPort != out {
				t.Fatalf("got %d, want %d", h.srcPort, out)
			}
			out++
		}
	}
	if in-out != uint32(q.n) || len(q.ring) > 128 {
		t.Errorf("%d in, %d out, %d left in a ring of %d", in, out, q.n, len(q.ring))
	}
}

// Ports go round, and past what is in use.
func TestFreePorts(t *testing.T) {
	d := bare(t)
	if _, err := d.Listen(firstHostPort); err != nil {
		t.Fatal(err)
	}
	d.nextPort = anyPort - 2
	d.conns[key{6, firstHostPort + 2}] = &Conn{}
	d.conns[key{5, firstHostPort + 3}] = &Conn{}
	for i, want := range []uint32{anyPort - 2, anyPort - 1, firstHostPort + 1, firstHostPort + 2, firstHostPort + 4} {
		if p := d.freePort(5); p != want {
			t.Errorf("port %d is %#x, want %#x", i, p, want)
		}
	}
}

// Connections take turns: one packet each, whatever they have.
func TestConnectionsTakeTurns(t *testing.T) {
	d := bare(t)
	for i := range uint32(3) {
		d.mu.Lock()
		c := d.connect(key{guest: i, host: 1})
		c.established, c.peerSize = true, 1<<20
		c.out = make([]byte, 1<<20)
		d.schedule(c)
		d.mu.Unlock()
	}
	room := make([]byte, 4000)
	var order []uint32
	for range 9 {
		h, ok := d.take(room)
		if !ok || h.op != opData || h.len != 4000 {
			t.Fatalf("%+v", h)
		}
		order = append(order, h.dstPort)
	}
	for i, p := range order {
		if p != order[i%3] || i < 3 && i > 0 && p == order[i-1] {
			t.Fatalf("order %v", order)
		}
	}
	if h, _ := d.take(make([]byte, 1<<20)); h.len != maxPacket {
		t.Errorf("packet of %d bytes", h.len)
	}
}

// Nothing follows a shutdown, also when the Write it ended has not noticed.
func TestNoDataAfterShutdown(t *testing.T) {
	for name, end := range map[string]func(d *Device, c *Conn){
		"ours":   func(_ *Device, c *Conn) { c.shutdown(noSend) },
		"theirs": func(d *Device, c *Conn) { d.shutdown(c, noReceive); d.schedule(c) },
	} {
		d := bare(t)
		d.mu.Lock()
		c := d.connect(key{guest: 1, host: 1})
		c.established, c.peerSize, c.out = true, 100, make([]byte, 200)
		d.schedule(c)
		end(d, c)
		d.mu.Unlock()
		for {
			h, ok := d.take(make([]byte, 50))
			if !ok {
				break
			}
			if h.op == opData {
				t.Errorf("%s: %d bytes were sent", name, h.len)
			}
		}
		if err := d.Check(); err != nil {
			t.Error(err)
		}
	}
}

// A guest that guesses cannot answer a request before it was sent.
func TestAnswerBeforeTheRequest(t *testing.T) {
	d := bare(t)
	d.mu.Lock()
	c := d.connect(key{guest: 1, host: 2})
	c.dialed, c.due = true, dueRequest
	d.schedule(c)
	d.mu.Unlock()
	d.receive(header{srcCID: 7, dstCID: hostCID, srcPort: 1, dstPort: 2, kind: typeStream, op: opResponse}, vec())
	if c.established || c.err == nil {
		t.Errorf("established %v, %v", c.established, c.err)
	}
	if h, ok := d.take(nil); ok {
		t.Errorf("the guest is told %+v of what it cannot know", h)
	}
}

// A guest that opens and ends connections fast must not leave a timer each.
func TestEndStopsTheCloseTimer(t *testing.T) {
	d := bare(t)
	d.mu.Lock()
	c := d.connect(key{guest: 1, host: 1})
	c.established = true
	d.mu.Unlock()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	d.receive(header{srcCID: 7, dstCID: hostCID, srcPort: 1, dstPort: 1, kind: typeStream, op: opReset}, vec())
	if c.timer == nil || c.timer.Stop() {
		t.Error("the timer still runs")
	}
}

// A first line that does not end is not read for ever.
func TestHelloIsBounded(t *testing.T) {
	r := strings.NewReader(strings.Repeat("C", 1000) + "\n")
	if _, err := readHello(r); err == nil || r.Len() < 1000-helloMax {
		t.Errorf("%v with %d bytes unread", err, r.Len())
	}
}

// A deadline that was replaced just when it fired does not count any more.
func TestReplacedDeadlineDoesNotCount(t *testing.T) {
	var mu sync.Mutex
	wake := sync.Cond{L: &mu}
	for range 200 {
		var l deadline
		mu.Lock()
		l.set(time.Now().Add(time.Microsecond), &wake)
		for end := time.Now().Add(20 * time.Microsecond); time.Now().Before(end); { // lets it fire, most times
			runtime.Gosched()
		}
		l.set(time.Time{}, &wake)
		mu.Unlock()
		for range 10 { // lets it have the lock
			runtime.Gosched()
			mu.Lock()
			if l.passed {
				t.Fatal("a deadline that is not set has passed")
			}
			mu.Unlock()
		}
	}
}

// A packet each way, a read and a credit update allocate nothing.
func TestHotPathDoesNotAllocate(t *testing.T) {
	d := bare(t)
	d.mu.Lock()
	c := d.connect(key{guest: 5, host: 9})
	c.established = true
	d.mu.Unlock()
	payload, room, buf := make([]byte, 60<<10), make([]byte, 4<<10), make([]byte, 60<<10)
	data, into := vec(payload), vec(room)
	h := header{srcCID: 7, dstCID: hostCID, srcPort: 5, dstPort: 9, kind: typeStream, op: opData, len: uint32(len(payload)), bufAlloc: 1 << 20}
	sent := uint32(0)
	n := testing.AllocsPerRun(200, func() {
		h.fwdCnt = sent
		d.receive(h, data)
		if n, err := c.Read(buf); n != len(buf) || err != nil {
			t.Fatal(n, err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		c.out = payload[:len(room)]
		d.schedule(c)
		for d.ready.head != nil {
			p := d.nextPacket(into)
			sent += p.len
			var b [headerSize]byte
			p.encode(&b)
		}
		d.refuse(header{op: opData})
		d.resets.pop()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzPacket is a hostile guest's packets, between what the host's side does:
// the books stay right and nothing is exceeded. Each step is 12 bytes.
func FuzzPacket(f *testing.F) {
	step := func(what, op, guest, host byte, flags byte, n uint16, credit uint32, kind byte) []byte {
		b := []byte{what, op, guest, host, flags, 0, 0, 0, 0, 0, 0, kind}
		binary.LittleEndian.PutUint16(b[5:], n)
		binary.LittleEndian.PutUint32(b[7:], credit)
		return b
	}
	open := step(0, opRequest, 1, 1, 0, 0, 1<<16, 1)
	for op := range byte(9) {
		f.Add(bytes.Join([][]byte{open, step(1, 0, 0, 0, 0, 0, 0, 0), step(0, op, 1, 1, 3, 5000, 1<<12, 1), step(3, 0, 1, 1, 0, 9, 0, 0)}, nil))
	}
	f.Add(bytes.Join([][]byte{open, step(2, 0, 0, 0, 0, 0, 0, 0), step(4, 0, 0, 0, 0, 0, 0, 0), step(5, 0, 0, 0, 0, 0, 0, 0), open}, nil))
	f.Add(bytes.Join([][]byte{step(6, 0, 1, 0, 0, 0, 0, 0), step(1, 0, 0, 0, 0, 0, 0, 0), step(0, opResponse, 1, 0x80, 0, 0, 1<<10, 1)}, nil))
	f.Fuzz(func(t *testing.T, script []byte) {
		d := bare(t)
		l, err := d.Listen(1)
		if err != nil {
			t.Fatal(err)
		}
		var conns []*Conn
		room, payload, buf := make([]byte, 4<<10), make([]byte, 1<<16), make([]byte, 1<<16)
		for n := 0; len(script) >= 12 && n < 4000; n++ {
			s := script[:12]
			script = script[12:]
			size := int(binary.LittleEndian.Uint16(s[5:]))
			credit := binary.LittleEndian.Uint32(s[7:])
			var c *Conn
			if len(conns) > 0 {
				c = conns[int(s[2])%len(conns)]
			}
			switch what := s[0] % 8; {
			case what == 0: // a packet
				h := header{
					srcCID: 7, dstCID: hostCID, srcPort: uint32(s[2]), dstPort: uint32(s[3]) & 3, kind: uint16(s[11]), op: uint16(s[1]),
					flags: uint32(s[4]), bufAlloc: credit, fwdCnt: credit >> 16, len: uint32(size),
				}
				if s[3]&0x80 != 0 {
					h.dstPort = firstHostPort + uint32(s[3]&3)
				}
				if s[11]&0x40 != 0 {
					h.srcCID++
				}
				d.receive(h, vec(payload[:size/2], payload[size/2:size]))
			case what == 1: // the driver's buffers
				for range s[1] {
					if h, ok := d.take(room[:size%len(room)]); ok && int(h.len) > size%len(room) {
						t.Fatalf("%d bytes into %d", h.len, size%len(room))
					}
				}
			case what == 2:
				d.mu.Lock()
				if len(l.waiting) > 0 {
					d.mu.Unlock()
					c, err := l.accept()
					if err != nil {
						t.Fatal(err)
					}
					conns = append(conns, c)
				} else {
					d.mu.Unlock()
				}
			case what == 6: // Dial, without its waiting
				d.mu.Lock()
				if d.live < maxConns && len(conns) < 2*maxConns {
					c := d.connect(key{guest: uint32(s[2]), host: d.freePort(uint32(s[2]))})
					c.dialed, c.due = true, dueRequest
					d.schedule(c)
					conns = append(conns, c)
				}
				d.mu.Unlock()
			case what == 7 && s[1] == 0xff:
				d.Reset()
			case c == nil:
			case what == 3: // Write, without its waiting
				d.mu.Lock()
				if c.out = nil; !c.closed && c.established {
					c.out = payload[:size]
				}
				d.schedule(c)
				d.mu.Unlock()
			case what == 4:
				d.mu.Lock()
				ready := c.in.n > 0 && !c.closed
				d.mu.Unlock()
				if ready {
					if n, err := c.Read(buf[:size+1]); n == 0 || err != nil {
						t.Fatal(n, err)
					}
				}
			case what == 5:
				_ = c.Close()
			case what == 7:
				_ = c.CloseWrite()
			}
			if n%64 == 0 {
				if err := d.Check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := d.Check(); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		for _, c := range conns {
			_ = c.Close()
		}
		if slots, known := d.Live(); slots != 0 || known != 0 {
			t.Fatalf("%d slots, %d connections at the end", slots, known)
		}
	})
}

// BenchmarkDevice is the device's own work for 4 KiB to the guest and 60 KiB
// from it, without queues and goroutines.
func BenchmarkDevice(b *testing.B) {
	d := bare(b)
	d.mu.Lock()
	c := d.connect(key{guest: 5, host: 9})
	c.established, c.peerSize = true, 1<<20
	d.mu.Unlock()
	payload := make([]byte, 60<<10)
	b.Run("to guest", func(b *testing.B) {
		room := vec(make([]byte, 4<<10))
		b.SetBytes(4 << 10)
		for b.Loop() {
			d.mu.Lock()
			c.out, c.peerDone = payload[:4<<10], c.sent
			d.schedule(c)
			d.nextPacket(room)
			d.mu.Unlock()
		}
	})
	b.Run("from guest", func(b *testing.B) {
		data, buf := vec(payload), make([]byte, len(payload))
		h := header{srcCID: 7, dstCID: hostCID, srcPort: 5, dstPort: 9, kind: typeStream, op: opData, len: uint32(len(payload)), bufAlloc: 1 << 20}
		b.SetBytes(int64(len(payload)))
		for b.Loop() {
			d.receive(h, data)
			if _, err := c.Read(buf); err != nil {
				b.Fatal(err)
			}
			for d.ready.head != nil {
				d.nextPacket(vec())
			}
		}
	})
}
