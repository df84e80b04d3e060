package vsock_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
	"github.com/hvctl/hvctl/virtio/vsock"
)

const (
	cid            = 7
	rx, tx, events = 0, 1, 2

	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7

	noReceive, noSend = 1, 2
)

// packet is struct virtio_vsock_hdr and what follows it, as the driver sees it.
type packet struct {
	src, dst         uint64
	srcPort, dstPort uint32
	len              uint32 // when it is not that of data
	kind, op         uint16
	flags            uint32
	bufAlloc, fwdCnt uint32
	data             []byte
}

func (p packet) bytes() []byte {
	le, b := binary.LittleEndian, make([]byte, 44, 44+len(p.data))
	le.PutUint64(b[0:], p.src)
	le.PutUint64(b[8:], p.dst)
	le.PutUint32(b[16:], p.srcPort)
	le.PutUint32(b[20:], p.dstPort)
	n := p.len
	if n == 0 {
		n = uint32(len(p.data))
	}
	le.PutUint32(b[24:], n)
	le.PutUint16(b[28:], p.kind)
	le.PutUint16(b[30:], p.op)
	le.PutUint32(b[32:], p.flags)
	le.PutUint32(b[36:], p.bufAlloc)
	le.PutUint32(b[40:], p.fwdCnt)
	return append(b, p.data...)
}

func parsePacket(b []byte) packet {
	le := binary.LittleEndian
	return packet{
		src: le.Uint64(b[0:]), dst: le.Uint64(b[8:]), srcPort: le.Uint32(b[16:]), dstPort: le.Uint32(b[20:]),
		len: le.Uint32(b[24:]), kind: le.Uint16(b[28:]), op: le.Uint16(b[30:]), flags: le.Uint32(b[32:]),
		bufAlloc: le.Uint32(b[36:]), fwdCnt: le.Uint32(b[40:]), data: b[44:],
	}
}

func (p packet) String() string {
	return fmt.Sprintf("%d:%d->%d:%d type %d op %d flags %d len %d credit %d/%d",
		p.src, p.srcPort, p.dst, p.dstPort, p.kind, p.op, p.flags, p.len, p.bufAlloc, p.fwdCnt)
}

// guest is a scripted driver with the protocol's fields filled in.
type guest struct {
	t testing.TB
	d *virtiotest.Driver
	// credit that goes into every packet
	bufAlloc, fwdCnt uint32
	slots            []memory.GPA // free transmit buffers, reused
	busy             map[uint16]memory.GPA
	rxAt             map[uint16]memory.GPA
}

const slotSize = 68 << 10

func newDevice(t testing.TB) *vsock.Device {
	t.Helper()
	dev, err := vsock.New(vsock.Options{CID: cid})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Check(); err != nil {
			t.Error(err)
		}
	})
	return dev
}

// newGuest starts dev with rxBuffers receive buffers of 4 KiB.
func newGuest(t testing.TB, dev virtio.Device, rxBuffers int) *guest {
	t.Helper()
	g := &guest{t: t, d: virtiotest.Start(t, dev, virtiotest.Options{MemBytes: 64 << 20})}
	g.renew(rxBuffers)
	return g
}

// renew forgets all buffers, as after a reset of the driver.
func (g *guest) renew(rxBuffers int) {
	g.t.Helper()
	g.bufAlloc, g.fwdCnt = 64<<10, 0
	g.slots, g.busy, g.rxAt = nil, map[uint16]memory.GPA{}, map[uint16]memory.GPA{}
	for range 16 {
		g.slots = append(g.slots, g.d.Alloc(slotSize, 8))
	}
	for range rxBuffers {
		g.addRx(g.d.Alloc(4096, 8))
	}
	g.d.Queue(rx).Kick()
}

func (g *guest) addRx(a memory.GPA) {
	g.t.Helper()
	g.rxAt[g.d.Queue(rx).Add(virtiotest.At(a, 4096, true))] = a
}

// reclaim takes transmit buffers back; all of them when wait is set.
func (g *guest) reclaim(wait bool) {
	g.t.Helper()
	for len(g.busy) > 0 {
		u, ok := g.d.Queue(tx).TryWait()
		if !ok && !wait {
			return
		}
		if !ok {
			u = g.d.Queue(tx).Wait()
		}
		if u.Written != 0 {
			g.t.Errorf("device wrote %d bytes to a transmit buffer", u.Written)
		}
		g.slots = append(g.slots, g.busy[u.Head])
		delete(g.busy, u.Head)
	}
}

// offer puts a packet into the transmit queue and does not wait.
func (g *guest) offer(p packet) {
	g.t.Helper()
	if g.reclaim(false); len(g.slots) == 0 {
		g.reclaim(true)
	}
	a := g.slots[0]
	g.slots = g.slots[1:]
	b := p.bytes()
	g.d.Write(a, b)
	g.busy[g.d.Queue(tx).Add(virtiotest.At(a, len(b), false))] = a
	g.d.Queue(tx).Kick()
}

// send sends a packet and waits until the device has taken it.
func (g *guest) send(p packet) {
	g.t.Helper()
	g.offer(p)
	g.reclaim(true)
}

// op returns a packet from guest port to host port.
func (g *guest) op(guestPort, hostPort uint32, op uint16) packet {
	return packet{src: cid, dst: 2, srcPort: guestPort, dstPort: hostPort, kind: 1, op: op, bufAlloc: g.bufAlloc, fwdCnt: g.fwdCnt}
}

// recv returns the next packet from the device and offers its buffer again.
func (g *guest) recv() packet {
	g.t.Helper()
	p := g.take()
	g.d.Queue(rx).Kick()
	return p
}

func (g *guest) take() packet {
	g.t.Helper()
	u := g.d.Queue(rx).Wait()
	p := parsePacket(u.In[:u.Written])
	if int(p.len) != len(p.data) || p.src != 2 || p.dst != cid {
		g.t.Errorf("bad packet %v with %d bytes", p, len(p.data))
	}
	a := g.rxAt[u.Head]
	delete(g.rxAt, u.Head)
	g.addRx(a)
	return p
}

// want receives a packet and checks what it is.
func (g *guest) want(op uint16, guestPort, hostPort uint32) packet {
	g.t.Helper()
	p := g.recv()
	if p.op != op || p.dstPort != guestPort || p.srcPort != hostPort {
		g.t.Fatalf("got %v, want op %d from host port %d to guest port %d", p, op, hostPort, guestPort)
	}
	return p
}

// silent checks that the device has nothing to say.
func (g *guest) silent() {
	g.t.Helper()
	g.d.Queue(tx).Settle()
	g.d.Queue(rx).Settle()
	if u, ok := g.d.Queue(rx).TryWait(); ok {
		g.t.Fatalf("unexpected packet %v", parsePacket(u.In[:u.Written]))
	}
}

// connect opens a connection from the guest and accepts it.
func (g *guest) connect(l net.Listener, guestPort, hostPort uint32) *vsock.Conn {
	g.t.Helper()
	g.send(g.op(guestPort, hostPort, opRequest))
	p := g.want(opResponse, guestPort, hostPort)
	if p.kind != 1 || p.bufAlloc < vsock.WindowMin || p.fwdCnt != 0 {
		g.t.Errorf("response %v", p)
	}
	c, err := l.Accept()
	if err != nil {
		g.t.Fatal(err)
	}
	return c.(*vsock.Conn)
}

func listen(t testing.TB, dev *vsock.Device, port uint32) *vsock.Listener {
	t.Helper()
	l, err := dev.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// pattern returns n bytes that differ from their neighbours' neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8)*31 ^ byte(i>>16)*7
	}
	return b
}

func wantBytes(t testing.TB, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, want %d, or they differ", len(got), len(want))
	}
}

func loadState(s state.Section, d *vsock.Device) error { return state.Load(s, d) }
