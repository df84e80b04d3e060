package net

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

var testMAC = hwAddr{2, 0, 0, 0, 0, 1}

// peers finds the other end of a device's socket.
var peers sync.Map // *os.File of the device to *os.File

// wire makes a socket pair that keeps frames apart.
func wire(t testing.TB) (dev, peer *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	}
	dev, peer = os.NewFile(uintptr(fds[0]), "dev"), os.NewFile(uintptr(fds[1]), "peer")
	peers.Store(dev, peer)
	t.Cleanup(func() { dev.Close(); peer.Close(); peers.Delete(dev) })
	return dev, peer
}

func testArgs(t testing.TB) virtio.Args {
	t.Helper()
	dev, _ := wire(t)
	return virtio.Args{ID: "net0", Values: map[string]string{"mac": "02:00:00:00:00:01", "mtu": "1500"}, Files: map[string]*os.File{"tap": dev}}
}

func newDevice(t testing.TB) *Device {
	t.Helper()
	d, err := Kind.New(testArgs(t))
	if err != nil {
		t.Fatal(err)
	}
	return d.(*Device)
}

// guest is a driver and the other end of its cable.
type guest struct {
	*virtiotest.Driver
	t    testing.TB
	dev  *Device
	peer *os.File
}

func of(t testing.TB, d *virtiotest.Driver) *guest {
	t.Helper()
	dev := d.Link.Core().Device().(*Device)
	p, ok := peers.Load(dev.o.Backends[0].(*file).f)
	if !ok {
		t.Fatal("no peer")
	}
	return &guest{d, t, dev, p.(*os.File)}
}

func start(t testing.TB, o virtiotest.Options) *guest {
	t.Helper()
	return of(t, virtiotest.Start(t, newDevice(t), o))
}

// frame makes a frame of n bytes after the header, to addr.
func frame(to hwAddr, n int) []byte {
	f := make([]byte, HeaderLen+n)
	for i := range f[HeaderLen:] {
		f[HeaderLen+i] = byte(i) ^ byte(i>>8)
	}
	copy(f[HeaderLen:], to[:])
	return f
}

// send puts a frame on the cable.
func (g *guest) send(f []byte) {
	g.t.Helper()
	_ = g.peer.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := g.peer.Write(f); err != nil {
		g.t.Fatal(err)
	}
}

// receive takes the next frame off the cable.
func (g *guest) receive() []byte {
	g.t.Helper()
	_ = g.peer.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, maxFrame+100)
	n, err := g.peer.Read(buf)
	if err != nil {
		g.t.Fatal(err)
	}
	return buf[:n]
}

// drain throws away what is on the cable now.
func (g *guest) drain() {
	g.t.Helper()
	rc, err := g.peer.SyscallConn()
	if err != nil {
		g.t.Fatal(err)
	}
	buf := make([]byte, 64)
	err = rc.Read(func(fd uintptr) bool {
		for {
			if _, err := unix.Read(int(fd), buf); err != nil {
				return true
			}
		}
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

func request(t testing.TB, d *virtiotest.Driver) {
	t.Helper()
	g := of(t, d)
	f := frame(testMAC, 60+rand.IntN(1400))
	g.drain() // what chance made the driver send before
	// Out.
	if u := d.Queue(1).Do(virtiotest.Out(f[:HeaderLen]), virtiotest.Out(f[HeaderLen:])); u.Written != 0 {
		t.Fatalf("transmit queue says %d bytes written", u.Written)
	}
	if got := g.receive(); !bytes.Equal(got, f) {
		t.Fatalf("sent %x, on the cable %x", f, got)
	}
	// In.
	q := d.Queue(0)
	q.Add(virtiotest.In(HeaderLen), virtiotest.In(1530))
	q.Kick()
	g.send(f)
	checkFrame(t, q.Wait(), f)
}

// checkFrame compares a frame in one chain with what was sent.
func checkFrame(t testing.TB, u virtiotest.Used, f []byte) {
	t.Helper()
	if int(u.Written) != len(f) || !bytes.Equal(u.In[HeaderLen:len(f)], f[HeaderLen:]) || binary.LittleEndian.Uint16(u.In[numBuffers:]) != 1 {
		t.Fatalf("sent %d bytes %x, received %d bytes %x", len(f), f, u.Written, u.In[:u.Written])
	}
}

// ctrl does a command and returns the answer.
func ctrl(d *virtiotest.Driver, class, cmd byte, data ...byte) byte {
	d.T.Helper()
	bufs := []virtiotest.Buf{virtiotest.Out([]byte{class, cmd})}
	if len(data) > 0 {
		bufs = append(bufs, virtiotest.Out(data))
	}
	u := d.Queue(d.NumQueues() - 1).Do(append(bufs, virtiotest.In(1))...)
	if u.Written != 1 {
		d.T.Fatalf("command %d/%d: %d bytes of answer", class, cmd, u.Written)
	}
	return u.In[0]
}

func change(t testing.TB, d *virtiotest.Driver) {
	t.Helper()
	if ctrl(d, classRX, cmdAllMulti, 1) != ackOK || ctrl(d, classMAC, cmdMACTable, 1, 0, 0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0) != ackOK {
		t.Fatal("command refused")
	}
}

var suite = virtiotest.Suite{Kind: Kind, MakeArgs: testArgs, Request: request, Change: change}

func TestSuite(t *testing.T)  { suite.Run(t) }
func FuzzDevice(f *testing.F) { suite.Fuzz(f) }

func TestFrameOverSeveralChains(t *testing.T) {
	g := start(t, virtiotest.Options{})
	q := g.Queue(0)
	for range 100 {
		q.Add(virtiotest.In(700), virtiotest.In(300))
	}
	q.Kick()
	for _, n := range []int{60, 988, 989, 5000, 65550, 14} {
		f := frame(testMAC, n)
		g.send(f)
		first := q.Wait()
		count := int(binary.LittleEndian.Uint16(first.In[numBuffers:]))
		if want := (len(f) + 999) / 1000; count != want {
			t.Fatalf("%d bytes: num_buffers %d, want %d", n, count, want)
		}
		got := first.In[:first.Written]
		for range count - 1 {
			u := q.Wait()
			got = append(got, u.In[:u.Written]...)
		}
		if !bytes.Equal(got[HeaderLen:], f[HeaderLen:]) {
			t.Fatalf("%d bytes came through wrong", n)
		}
	}
}

func TestWithoutMergingAFrameTakesOneChain(t *testing.T) {
	g := start(t, virtiotest.Options{Without: featMrgRxbuf | featGuestTSO4 | featGuestTSO6 | featGuestUFO | featGuestECN | featGuestUSO4 | featGuestUSO6})
	q := g.Queue(0)
	q.Add(virtiotest.In(HeaderLen), virtiotest.In(100))
	q.Add(virtiotest.In(2000))
	q.Kick()
	g.send(frame(testMAC, 101)) // too large for the first: dropped
	f := frame(testMAC, 100)
	g.send(f)
	checkFrame(t, q.Wait(), f)
	f = frame(testMAC, 1514)
	g.send(f)
	checkFrame(t, q.Wait(), f)
	if n := g.dev.metrics.RxDropped.Load(); n != 1 {
		t.Errorf("%d frames dropped, want 1", n)
	}
}

func TestFrameWaitsForMoreBuffers(t *testing.T) {
	g := start(t, virtiotest.Options{})
	q := g.Queue(0)
	q.Settle()
	dry := g.dev.metrics.RxDry.Load()
	q.Add(virtiotest.In(1000))
	q.Kick()
	f := frame(testMAC, 1500)
	g.send(f)
	g.Eventually("the receiver is short of buffers", func() bool { return g.dev.metrics.RxDry.Load() > dry })
	q.Add(virtiotest.In(1000)) // no doorbell unless the device asks for it
	if q.WantsKick(q.UsedIdx() + 1) {
		q.Kick()
	}
	first := q.Wait()
	second := q.Wait()
	got := append(first.In[:first.Written], second.In[:second.Written]...)
	if !bytes.Equal(got[HeaderLen:], f[HeaderLen:]) || first.In[numBuffers] != 2 {
		t.Errorf("%d and %d bytes", first.Written, second.Written)
	}
}

// A receiver that waits for frames does not come back to the core, which
// interrupts otherwise.
func TestWaitingReceiverInterrupts(t *testing.T) {
	g := start(t, virtiotest.Options{})
	q := g.Queue(0)
	for range 100 {
		q.Add(virtiotest.In(1530))
	}
	q.Kick()
	for range 3 {
		seen := g.Link.Interrupts(0)
		q.SetUsedEvent(q.UsedIdx())
		g.send(frame(testMAC, 60))
		q.Wait()
		g.WaitInterrupt(0, seen)
	}
}

// A doorbell without buffers behind it does not cost the frame.
func TestFrameWaitsOverIdleDoorbells(t *testing.T) {
	dev := newDevice(t)
	g := of(t, virtiotest.Start(t, dev, virtiotest.Options{}))
	q := g.Queue(0)
	q.Settle()
	dry := dev.metrics.RxDry.Load()
	q.Add(virtiotest.In(1000))
	q.Kick()
	f := frame(testMAC, 1500)
	g.send(f)
	g.Eventually("the receiver is short of buffers", func() bool { return dev.metrics.RxDry.Load() > dry })
	q.Settle()
	q.Add(virtiotest.In(1000))
	q.Kick()
	if a, b := q.Wait(), q.Wait(); int(a.Written+b.Written) != len(f) || dev.metrics.RxDropped.Load() != 0 {
		t.Errorf("%d and %d bytes, %d dropped", a.Written, b.Written, dev.metrics.RxDropped.Load())
	}
}

// detached is a Backend that is taken out of use in the middle of a read.
type detached struct {
	recorder
	rx *receiver
}

func (b *detached) Receive(ctx context.Context, f func(Frames) bool) error {
	if b.rx != nil && b.rx.ctx != nil && f(b) {
		return nil
	}
	return b.Backend.Receive(ctx, f)
}

func (b *detached) Readv([][]byte) (int, error) {
	b.rx.enabled.Store(false)
	return 0, unix.EBADFD
}
func (b *detached) Writev([][]byte) (int, error) { return 0, unix.EAGAIN }

func TestPairTakenOutOfUseIsNoLoss(t *testing.T) {
	f, _ := wire(t)
	inner, err := NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	b := &detached{recorder: recorder{Backend: inner}}
	dev, err := New(Options{Backends: []Backend{b}})
	if err != nil {
		t.Fatal(err)
	}
	b.rx = &dev.pairs[0].rx
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	d.Queue(0).Add(virtiotest.In(1530))
	d.Queue(0).Settle()
	if d.Config(6, 1)[0]&statusLinkUp == 0 || b.rx.enabled.Load() {
		t.Errorf("link status %#x, enabled %v", d.Config(6, 1), b.rx.enabled.Load())
	}
}

func TestFrameTooLargeForAllBuffersIsDropped(t *testing.T) {
	dev := newDevice(t)
	dev.pairs[0].rx.patience = 20 * time.Millisecond
	g := of(t, virtiotest.Start(t, dev, virtiotest.Options{}))
	q := g.Queue(0)
	q.Add(virtiotest.In(1000))
	q.Kick()
	g.send(frame(testMAC, 60000))
	g.Eventually("the frame is dropped", func() bool { return g.dev.metrics.RxDropped.Load() == 1 })
	f := frame(testMAC, 500)
	g.send(f)
	checkFrame(t, q.Wait(), f)
}

func TestFramesWaitWithoutBuffers(t *testing.T) {
	g := start(t, virtiotest.Options{})
	a, b := frame(testMAC, 100), frame(testMAC, 200)
	g.send(a)
	g.send(b)
	q := g.Queue(0)
	q.Settle()
	for _, f := range [][]byte{a, b} {
		q.Add(virtiotest.In(1530))
		q.Kick()
		checkFrame(t, q.Wait(), f)
	}
	if g.dev.metrics.RxDropped.Load() != 0 {
		t.Error("dropped")
	}
}

// A waiting receiver holds chains; a pause gives them back, a restore goes on.
func TestPauseWhileWaitingKeepsBuffers(t *testing.T) {
	g := start(t, virtiotest.Options{})
	q := g.Queue(0)
	for range 64 {
		q.Add(virtiotest.In(1530))
	}
	q.Kick()
	f := frame(testMAC, 300)
	for range 3 {
		g.send(f)
		checkFrame(t, q.Wait(), f)
		g.Stop()
		g.Resume()
	}
	g.Restore(func() virtio.Device { return newDevice(t) }, nil)
	g = of(t, g.Driver)
	g.send(f)
	checkFrame(t, q.Wait(), f)
}

func TestDisabledQueueIsLeftWhileWaiting(t *testing.T) {
	g := start(t, virtiotest.Options{})
	q := g.Queue(0)
	q.Add(virtiotest.In(1530))
	q.Add(virtiotest.In(1530))
	q.Kick()
	f := frame(testMAC, 300)
	g.send(f)
	checkFrame(t, q.Wait(), f) // it waits for the next one now
	done := make(chan struct{})
	go func() { g.Link.Core().DisableQueue(0); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the receiver is stuck")
	}
}

func TestBadFramesOfTheDriverAreDropped(t *testing.T) {
	g := start(t, virtiotest.Options{})
	q := g.Queue(1)
	ok := frame(testMAC, 60)
	for name, bufs := range map[string][]virtiotest.Buf{
		"header alone":  {virtiotest.Out(ok[:HeaderLen])},
		"short header":  {virtiotest.Out(ok[:3])},
		"short frame":   {virtiotest.Out(ok[:minFrame-1])},
		"too large":     {virtiotest.Out(make([]byte, maxFrame)), virtiotest.Out([]byte{1})},
		"writable part": {virtiotest.Out(ok), virtiotest.In(8)},
	} {
		bad := g.dev.metrics.TxBad.Load()
		if u := q.Do(bufs...); u.Written != 0 || g.dev.metrics.TxBad.Load() != bad+1 {
			t.Errorf("%s: %d bytes written, not counted", name, u.Written)
		}
	}
	q.Do(virtiotest.Out(ok))
	if got := g.receive(); !bytes.Equal(got, ok) { // and nothing before it
		t.Errorf("on the cable: %x", got)
	}
	if n := g.dev.metrics.TxPackets.Load(); n != 1 {
		t.Errorf("%d packets", n)
	}
}

func TestFrameInManyPieces(t *testing.T) {
	g := start(t, virtiotest.Options{})
	f := frame(testMAC, 1012)
	var bufs []virtiotest.Buf
	for i := range f {
		bufs = append(bufs, virtiotest.Out(f[i:i+1]))
	}
	g.Queue(1).AddIndirect(bufs...) // 1024, the longest
	g.Queue(1).Kick()
	g.Queue(1).Wait()
	if got := g.receive(); !bytes.Equal(got, f) {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestSenderWaitsForRoom(t *testing.T) {
	g := start(t, virtiotest.Options{MemBytes: 64 << 20})
	q := g.Queue(1)
	n := int(q.Size())
	for i := range n {
		f := frame(testMAC, 30000)
		f[HeaderLen+20] = byte(i)
		q.Add(virtiotest.Out(f))
	}
	q.Kick()
	g.Eventually("the cable is full", func() bool { return int(q.UsedIdx()) > 0 })
	g.Stop() // does not wait for room
	g.Resume()
	for i := range n {
		if got := g.receive(); len(got) != HeaderLen+30000 || got[HeaderLen+20] != byte(i) {
			t.Fatalf("frame %d: %d bytes, number %d", i, len(got), got[HeaderLen+20])
		}
	}
	for range n {
		q.Wait()
	}
	if d := g.dev.metrics.TxDropped.Load(); d != 0 {
		t.Errorf("%d dropped", d)
	}
}

func TestResetForgetsFramesOfTheOldDriver(t *testing.T) {
	g := start(t, virtiotest.Options{})
	g.send(frame(testMAC, 60000)) // no buffers: it stays on the cable
	g.Renew()
	g.Queue(0).Add(virtiotest.In(1530))
	g.Queue(0).Kick()
	f := frame(testMAC, 99)
	g.send(f)
	checkFrame(t, g.Queue(0).Wait(), f)
}

func TestLinkAndAnnounce(t *testing.T) {
	g := start(t, virtiotest.Options{})
	status := func() uint16 { return binary.LittleEndian.Uint16(g.Config(6, 2)) }
	if status() != statusLinkUp {
		t.Errorf("status %d", status())
	}
	seen := g.Link.ConfigInterrupts()
	check(t, g.dev.SetLink(false))
	check(t, g.dev.SetLink(false))
	g.WaitConfigInterrupt(seen)
	if status() != 0 || g.Link.ConfigInterrupts() != seen+1 {
		t.Errorf("status %d, %d interrupts", status(), g.Link.ConfigInterrupts()-seen)
	}
	f := frame(testMAC, 60)
	g.Queue(1).Do(virtiotest.Out(f)) // lost
	g.Queue(0).Add(virtiotest.In(1530))
	g.Queue(0).Kick()
	g.send(f) // lost
	g.Eventually("the frame is lost", func() bool { return g.dev.metrics.RxFiltered.Load() == 1 })
	check(t, g.dev.SetLink(true))
	f = frame(testMAC, 61)
	g.send(f)
	checkFrame(t, g.Queue(0).Wait(), f)
	g.Queue(1).Do(virtiotest.Out(f))
	if got := g.receive(); !bytes.Equal(got, f) {
		t.Errorf("on the cable: %x", got)
	}

	g.dev.Announce()
	if status() != statusLinkUp|statusAnnounce {
		t.Errorf("status %d", status())
	}
	if ctrl(g.Driver, classAnnounce, cmdAnnounceAck) != ackOK || status() != statusLinkUp {
		t.Errorf("status %d after the acknowledgement", status())
	}
	without := start(t, virtiotest.Options{Without: featGuestAnnounce})
	without.dev.Announce()
	if got := without.Config(6, 1)[0]; got != statusLinkUp {
		t.Errorf("announce to a driver that cannot: %d", got)
	}
}

func TestConfig(t *testing.T) {
	g := start(t, virtiotest.Options{})
	want := []byte{2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xdc, 5, 0x10, 0x27, 0, 0, 1}
	if got := g.Config(0, configLen); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
	if ctrl(g.Driver, classMAC, cmdMACAddr, 2, 9, 9, 9, 9, 9) != ackOK || !bytes.Equal(g.Config(0, 6), []byte{2, 9, 9, 9, 9, 9}) {
		t.Errorf("MAC %x", g.Config(0, 6))
	}
	g.Renew()
	if got := g.Config(0, 6); !bytes.Equal(got, testMAC[:]) {
		t.Errorf("MAC after reset %x", got)
	}
}

func TestFilter(t *testing.T) {
	var (
		other = hwAddr{2, 7, 7, 7, 7, 7}
		multi = hwAddr{1, 0, 0x5e, 0, 0, 1}
		mul2  = hwAddr{1, 0, 0x5e, 0, 0, 2}
		bcast = hwAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	)
	g := start(t, virtiotest.Options{})
	for range 200 {
		g.Queue(0).Add(virtiotest.In(200))
	}
	g.Queue(0).Kick()
	got := func(to hwAddr) bool {
		t.Helper()
		g.send(frame(to, 60))
		g.Eventually("the frame is judged", func() bool {
			return g.dev.metrics.RxFiltered.Load()+g.dev.metrics.RxPackets.Load() > 0
		})
		filtered := g.dev.metrics.RxFiltered.Swap(0) > 0
		g.dev.metrics.RxPackets.Store(0)
		if !filtered {
			g.Queue(0).Wait()
		}
		return !filtered
	}
	check := func(what string, want map[hwAddr]bool) {
		t.Helper()
		for to, w := range want {
			if got(to) != w {
				t.Errorf("%s: frame to %x delivered is %v", what, to, !w)
			}
		}
	}
	cmd := func(class, c byte, data ...byte) {
		t.Helper()
		if ctrl(g.Driver, class, c, data...) != ackOK {
			t.Fatalf("command %d/%d refused", class, c)
		}
	}
	check("at first", map[hwAddr]bool{testMAC: true, other: true, multi: true, bcast: true})
	cmd(classRX, cmdPromisc, 0)
	check("not promiscuous", map[hwAddr]bool{testMAC: true, other: false, multi: false, bcast: true})
	cmd(classMAC, cmdMACTable, append(append(append([]byte{1, 0, 0, 0}, other[:]...), 1, 0, 0, 0), multi[:]...)...)
	check("with tables", map[hwAddr]bool{other: true, multi: true, mul2: false})
	cmd(classRX, cmdAllMulti, 1)
	check("all multicast", map[hwAddr]bool{mul2: true})
	cmd(classRX, cmdNoMulti, 1)
	cmd(classRX, cmdNoBcast, 1)
	check("no multicast, no broadcast", map[hwAddr]bool{multi: false, bcast: false, testMAC: true})
	cmd(classRX, cmdNoUni, 1)
	check("no unicast", map[hwAddr]bool{testMAC: false})
	cmd(classRX, cmdNoUni, 0)
	cmd(classMAC, cmdMACTable, append(append([]byte{70, 0, 0, 0}, make([]byte, 420)...), 0, 0, 0, 0)...)
	check("table too long to keep", map[hwAddr]bool{{2, 8, 8, 8, 8, 8}: true})
}

func TestBadCommandsAreRefused(t *testing.T) {
	g := start(t, virtiotest.Options{})
	before := *g.dev.filter.Load()
	for _, c := range [][]byte{
		{classRX, cmdPromisc},
		{classRX, cmdPromisc, 2},
		{classRX, 99, 1},
		{99, 0, 1},
		{classMAC, cmdMACTable},
		{classMAC, cmdMACTable, 1, 0, 0, 0},
		{classMAC, cmdMACTable, 0, 0, 0, 0},
		{classMAC, cmdMACTable, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6},
		{classMAC, cmdMACTable, 0, 0, 0, 0, 0, 0, 0, 0x80},
		{classMAC, cmdMACAddr, 1, 0, 0, 0, 0, 0},
		{classMAC, cmdMACAddr, 0, 0, 0, 0, 0, 0},
		{classMAC, cmdMACAddr, 2, 0},
		{classMQ, cmdMQPairs, 1, 0},
		{classOffloads, cmdOffloads, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		{classOffloads, cmdOffloads, 0x80, 0, 0, 0, 0, 0, 0, 0}, // TSO4 without CSUM
	} {
		if ctrl(g.Driver, c[0], c[1], c[2:]...) != ackErr {
			t.Errorf("% x accepted", c)
		}
	}
	q := g.Queue(2)
	q.Do(virtiotest.Out([]byte{0}))
	q.Do(virtiotest.In(1))
	q.Do(virtiotest.Out([]byte{classRX, cmdPromisc, 1})) // no place for the answer
	after := *g.dev.filter.Load()
	if len(after.Uni)+len(after.Multi) != 0 || after.MAC != before.MAC {
		t.Errorf("changed: %+v", after)
	}
	request(t, g.Driver)
}

// recorder is a Backend that notes what it is told.
type recorder struct {
	Backend
	mu      sync.Mutex
	offs    []Offload
	enabled []bool
	can     Offload
}

func (r *recorder) Offloads() Offload { return r.can }
func (r *recorder) SetOffloads(o Offload) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offs = append(r.offs, o)
	return nil
}

func (r *recorder) SetEnabled(on bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enabled = append(r.enabled, on)
	return nil
}

// told is what SetEnabled was called with, in order.
func (r *recorder) told() []bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.enabled)
}

func (r *recorder) last() Offload {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.offs[len(r.offs)-1]
}

func record(t testing.TB, can Offload) *recorder {
	t.Helper()
	f, _ := wire(t)
	b, err := NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	return &recorder{Backend: b, can: can}
}

func TestOffloadsFollowTheDriver(t *testing.T) {
	const can = OffloadCSUM | OffloadTSO4 | OffloadECN
	r := record(t, can)
	fresh := func(r *recorder) *Device {
		d, err := New(Options{Backends: []Backend{r}})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := virtiotest.New(t, fresh(r), virtiotest.Options{Without: featGuestECN})
	if f := d.Link.OfferedFeatures(); f&(featGuestTSO6|featHostTSO6|featHostUSO|featMAC|featMTU|featMQ) != 0 || !f.Has(featGuestTSO4|featHostTSO4|featGuestECN|featHostECN|featCtrlOffloads) {
		t.Errorf("offered %#x", uint64(f))
	}
	d.Renew()
	if r.last() != OffloadCSUM|OffloadTSO4 {
		t.Errorf("offloads %#x", r.last())
	}
	if ctrl(d, classOffloads, cmdOffloads, byte(featGuestCSUM), 0, 0, 0, 0, 0, 0, 0) != ackOK || r.last() != OffloadCSUM {
		t.Errorf("offloads after the command %#x", r.last())
	}
	// ECN was not negotiated.
	if ctrl(d, classOffloads, cmdOffloads, 0x82, 2, 0, 0, 0, 0, 0, 0) != ackErr {
		t.Error("offload that was not negotiated accepted")
	}
	// The driver's choice comes along to a new backend.
	r2 := record(t, can)
	d.Restore(func() virtio.Device { return fresh(r2) }, nil)
	if r2.last() != OffloadCSUM {
		t.Errorf("offloads after the restore %#x", r2.last())
	}
	d.Reset()
	if r2.last() != 0 {
		t.Errorf("offloads after reset %#x", r2.last())
	}
	d.Renew()
	if r2.last() != OffloadCSUM|OffloadTSO4 {
		t.Errorf("offloads of the next driver %#x", r2.last())
	}
}

func TestDependentFeaturesAreRefused(t *testing.T) {
	dev := newDevice(t)
	for _, n := range needs {
		if err := dev.CheckFeatures(virtio.FeatureVersion1 | n.bit); !errors.Is(err, virtio.ErrGuest) {
			t.Errorf("%#x alone: %v", uint64(n.bit), err)
		}
	}
	if err := dev.CheckFeatures(dev.features); err != nil {
		t.Error(err)
	}
	dev.Close()
}

func TestQueuePairs(t *testing.T) {
	r := []*recorder{record(t, OffloadCSUM), record(t, OffloadCSUM), record(t, 0)}
	dev, err := New(Options{Backends: []Backend{r[0], r[1], r[2]}})
	if err != nil {
		t.Fatal(err)
	}
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	if d.NumQueues() != 7 || !d.Features.Has(featMQ) || d.Features.Has(featCSUM) {
		t.Fatalf("%d queues, features %#x", d.NumQueues(), uint64(d.Features))
	}
	p1, _ := peers.Load(r[1].Backend.(*file).f)
	g := &guest{d, t, dev, p1.(*os.File)}
	q := d.Queue(2)
	q.Add(virtiotest.In(1530))
	q.Kick()
	f := frame(testMAC, 60)
	g.send(f) // the pair is not in use: nobody reads
	q.Settle()
	if q.UsedIdx() != 0 {
		t.Error("a pair that is not in use received")
	}
	if ctrl(d, classMQ, cmdMQPairs, 2, 0) != ackOK {
		t.Fatal("refused")
	}
	checkFrame(t, q.Wait(), f)
	for _, n := range []byte{0, 4, 255} {
		if ctrl(d, classMQ, cmdMQPairs, n, 0) != ackErr {
			t.Errorf("%d pairs accepted", n)
		}
	}
	if got, want := fmt.Sprint(r[0].told(), r[1].told(), r[2].told()), "[] [false true] [false]"; got != want {
		t.Errorf("queues were enabled so: %s, want %s", got, want)
	}
	// Without MQ the control queue is number 2 (§5.1.2).
	d2dev := func() *Device {
		dev, err := New(Options{Backends: []Backend{record(t, 0), record(t, 0)}})
		if err != nil {
			t.Fatal(err)
		}
		return dev
	}()
	d2 := virtiotest.Start(t, d2dev, virtiotest.Options{Without: featMQ})
	if u := d2.Queue(2).Do(virtiotest.Out([]byte{classRX, cmdPromisc, 0}), virtiotest.In(1)); u.In[0] != ackOK || d2dev.filter.Load().Promisc {
		t.Errorf("command on queue 2: %x", u.In)
	}
}

func TestBadArgs(t *testing.T) {
	for name, change := range map[string]func(*virtio.Args){
		"no tap":        func(a *virtio.Args) { a.Files = nil },
		"mac":           func(a *virtio.Args) { a.Values["mac"] = "02:00" },
		"multicast mac": func(a *virtio.Args) { a.Values["mac"] = "01:00:00:00:00:01" },
		"mtu":           func(a *virtio.Args) { a.Values["mtu"] = "67" },
		"link":          func(a *virtio.Args) { a.Values["link"] = "perhaps" },
	} {
		a := testArgs(t)
		change(&a)
		if _, err := Kind.New(a); !errors.Is(err, virtio.ErrArgs) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFramesCostNoGarbage(t *testing.T) {
	f := &fdFrames{}
	dev, peer := wire(t)
	out := [][]byte{make([]byte, 12)}
	for range 40 {
		out = append(out, make([]byte, 100))
	}
	rc, err := peer.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewFile(dev)
	if err != nil {
		t.Fatal(err)
	}
	send := func(fr Frames) bool { _, _ = fr.Writev(out); return true }
	recv := func(fr Frames) bool { _, _ = fr.Readv(out); return true }
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		_ = b.Transmit(ctx, send)
		_ = rc.Read(func(fd uintptr) bool { f.fd = fd; return recv(f) })
	}); n > 1 { // the closure of this test
		t.Errorf("%v allocations a frame", n)
	}
}
