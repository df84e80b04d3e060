package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// screen collects output.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// plug is a writer that takes nothing until it is pulled.
type plug struct {
	screen
	entered chan struct{} // closed by the first Write
	once    sync.Once
	pull    chan struct{}
}

func newPlug() *plug { return &plug{entered: make(chan struct{}), pull: make(chan struct{})} }

func (p *plug) Write(b []byte) (int, error) {
	p.once.Do(func() { close(p.entered) })
	<-p.pull
	return p.screen.Write(b)
}

func device(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func request(t testing.TB, d *virtiotest.Driver) {
	t.Helper()
	dev := d.Link.Core().Device().(*Device)
	out := dev.metrics.Out.Load()
	if u := d.Queue(queueOut).Do(virtiotest.Out([]byte("hello, ")), virtiotest.Out([]byte("world\n"))); u.Written != 0 {
		t.Fatalf("%d bytes written into output", u.Written)
	}
	if n := dev.metrics.Out.Load() - out; n != 13 {
		t.Fatalf("%d bytes of output, want 13", n)
	}
	q := d.Queue(queueIn)
	q.Add(virtiotest.In(2), virtiotest.In(30))
	q.Kick()
	if _, err := dev.Feed([]byte("typed")); err != nil {
		t.Fatal(err)
	}
	u := q.Wait()
	got := string(u.In[:u.Written])
	for len(got) < 5 { // split where the guest took it while it was typed
		q.Add(virtiotest.In(30))
		q.Kick()
		u = q.Wait()
		got += string(u.In[:u.Written])
	}
	if !strings.HasSuffix(got, "typed") {
		t.Fatalf("received %q", got)
	}
}

var suite = virtiotest.Suite{
	Kind: Kind, Request: request, Idle: []int{queueIn},
	Change: func(_ testing.TB, d *virtiotest.Driver) { d.Link.Core().Device().(*Device).SetSize(100, 40) },
}

func TestSuite(t *testing.T)  { suite.Run(t) }
func FuzzDevice(f *testing.F) { suite.Fuzz(f) }

func TestOutputArrivesInOrder(t *testing.T) {
	s := &screen{}
	d := virtiotest.Start(t, device(t, Options{Out: s, Wait: true, Buffer: minBuffer}), virtiotest.Options{})
	var want strings.Builder
	q := d.Queue(queueOut)
	for i := range 50 {
		line := strings.Repeat(string(rune('a'+i%26)), 1+i*40) // up to 2 KB, many times the buffer
		want.WriteString(line)
		q.Do(virtiotest.Out([]byte(line)))
	}
	d.Eventually("all output is there", func() bool { return s.text() == want.String() })
	if n := d.Link.Core().Device().(*Device).metrics.Dropped.Load(); n != 0 {
		t.Errorf("%d bytes dropped", n)
	}
}

func TestStuckHostDropsTheOldest(t *testing.T) {
	p := newPlug()
	dev := device(t, Options{Out: p, Buffer: minBuffer})
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	q := d.Queue(queueOut)
	q.Do(virtiotest.Out([]byte("first")))
	<-p.entered
	for range 20 {
		q.Do(virtiotest.Out(bytes.Repeat([]byte("x"), 100))) // the guest goes on
	}
	q.Do(virtiotest.Out(bytes.Repeat([]byte("y"), 1000))) // more than fits at all
	q.Do(virtiotest.Out([]byte("last")))
	close(p.pull)
	want := "first" + strings.Repeat("y", minBuffer-4) + "last"
	d.Eventually("output goes on", func() bool { return p.text() == want })
	if n := dev.metrics.Dropped.Load(); n != 2000+1000+4-minBuffer {
		t.Errorf("%d bytes dropped", n)
	}
}

func TestStuckHostMakesTheGuestWait(t *testing.T) {
	p := newPlug()
	dev := device(t, Options{Out: p, Buffer: minBuffer, Wait: true})
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	q := d.Queue(queueOut)
	q.Do(virtiotest.Out([]byte("first")))
	<-p.entered
	q.Add(virtiotest.Out(bytes.Repeat([]byte("a"), 1000)))
	q.Kick()
	q.Settle()
	if _, ok := q.TryWait(); ok {
		t.Fatal("more was taken than there is room for")
	}
	// Pause, save and reset do not wait for the host.
	d.Stop()
	d.Resume()
	close(p.pull)
	q.Wait()
	want := "first" + strings.Repeat("a", 1000)
	d.Eventually("output goes on", func() bool { return p.text() == want })
}

// The next driver's output is not taken for the rest of what was half sent.
func TestResetInTheMiddleOfOutput(t *testing.T) {
	p := newPlug()
	d := virtiotest.Start(t, device(t, Options{Out: p, Buffer: minBuffer, Wait: true}), virtiotest.Options{})
	d.Queue(queueOut).Do(virtiotest.Out([]byte("<")))
	<-p.entered
	d.Queue(queueOut).Add(virtiotest.Out(bytes.Repeat([]byte("a"), 1000)))
	d.Queue(queueOut).Kick()
	d.Queue(queueOut).Settle()
	d.Renew()
	close(p.pull)
	d.Queue(queueOut).Do(virtiotest.Out([]byte("next")))
	want := "<" + strings.Repeat("a", minBuffer) + "next"
	d.Eventually("the next driver's output is whole", func() bool { return p.text() == want })
}

// A chain that was half sent is neither sent again nor lost after a restore.
func TestRestoreInTheMiddleOfOutput(t *testing.T) {
	p := newPlug()
	d := virtiotest.Start(t, device(t, Options{Out: p, Buffer: minBuffer, Wait: true}), virtiotest.Options{})
	q := d.Queue(queueOut)
	q.Do(virtiotest.Out([]byte("<")))
	<-p.entered
	long := strings.Repeat("0123456789", 100)
	q.Add(virtiotest.Out([]byte(long)))
	q.Kick()
	q.Settle()
	d.Stop()
	transport, dev := d.Save()
	close(p.pull)
	s := &screen{}
	d.Load(func() virtio.Device { return device(t, Options{Out: s, Wait: true}) }, nil, transport, dev)
	if got := p.text(); got != "<"+long[:minBuffer] {
		t.Errorf("the first host has %q", got)
	}
	d.Resume()
	q.Wait()
	d.Eventually("the second host has the rest", func() bool { return s.text() == long[minBuffer:] })
}

func TestInputWaitsForTheGuest(t *testing.T) {
	r, w := io.Pipe()
	dev := device(t, Options{In: r})
	defer w.Close()
	d := virtiotest.New(t, dev, virtiotest.Options{})
	// Typed before there is a driver, and over its reset: not lost.
	if _, err := io.WriteString(w, "early "); err != nil {
		t.Fatal(err)
	}
	d.Renew()
	big := strings.Repeat("0123456789abcdef", 2048) // 32 KiB, eight times the buffer
	go func() { _, _ = io.WriteString(w, big) }()
	var got strings.Builder
	q := d.Queue(queueIn)
	for got.Len() < len("early ")+len(big) {
		q.Add(virtiotest.In(700))
		q.Kick()
		u := q.Wait()
		got.Write(u.In[:u.Written])
		if n := len(dev.in.snapshot()); n > inputBuffer {
			t.Fatalf("%d bytes of input wait", n)
		}
		if q.UsedIdx()%32 == 0 && got.Len() < 20000 {
			d.Renew()
			q = d.Queue(queueIn)
		}
	}
	if got.String() != "early "+big {
		t.Error("input came through wrong")
	}
}

func (i *input) snapshot() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	return bytes.Clone(i.pend)
}

func TestCloseEndsFeedAndBoundsTheWait(t *testing.T) {
	p := newPlug()
	dev := device(t, Options{Out: p})
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	d.Queue(queueOut).Do(virtiotest.Out([]byte("x")))
	<-p.entered
	errc := make(chan error, 1)
	go func() { _, err := dev.Feed(make([]byte, 2*inputBuffer)); errc <- err }()
	d.Eventually("the input buffer is full", func() bool { return len(dev.in.snapshot()) == inputBuffer })
	begin := time.Now()
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("close took %v with a stuck host", took)
	}
	if err := <-errc; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("feed: %v", err)
	}
	close(p.pull)
}

func TestCloseWritesWhatWaits(t *testing.T) {
	s := &screen{}
	dev := device(t, Options{Out: s})
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	d.Queue(queueOut).Do(virtiotest.Out([]byte("last words")))
	if err := dev.Close(); err != nil || s.text() != "last words" {
		t.Errorf("%v, %q", err, s.text())
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestBrokenHostDoesNotStopTheGuest(t *testing.T) {
	d := virtiotest.Start(t, device(t, Options{Out: broken{}, Wait: true, Buffer: minBuffer}), virtiotest.Options{})
	for range 10 {
		d.Queue(queueOut).Do(virtiotest.Out(make([]byte, 1000)))
	}
}

func TestSize(t *testing.T) {
	dev := device(t, Options{Columns: 80, Rows: 25})
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	if got := d.Config(0, 8); !bytes.Equal(got, []byte{80, 0, 25, 0, 1, 0, 0, 0}) {
		t.Errorf("% x", got)
	}
	seen := d.Link.ConfigInterrupts()
	dev.SetSize(200, 50)
	dev.SetSize(200, 50)
	d.WaitConfigInterrupt(seen)
	if got := d.Config(0, 4); !bytes.Equal(got, []byte{200, 0, 50, 0}) || d.Link.ConfigInterrupts() != seen+1 {
		t.Errorf("% x, %d interrupts", got, d.Link.ConfigInterrupts()-seen)
	}
	without := device(t, Options{})
	d = virtiotest.Start(t, without, virtiotest.Options{Without: featSize})
	seen = d.Link.ConfigInterrupts()
	without.SetSize(1, 1)
	if d.Link.ConfigInterrupts() != seen {
		t.Error("interrupt for a driver that did not ask for sizes")
	}
}

func TestInputBuffersAreJudged(t *testing.T) {
	dev := device(t, Options{})
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	d.Queue(queueIn).Add(virtiotest.Out([]byte("?")))
	d.Queue(queueIn).Kick()
	_, _ = dev.Feed([]byte("x"))
	d.WaitNeedsReset()
}

func TestBadArgs(t *testing.T) {
	for _, v := range []map[string]string{{"full": "x"}, {"buffer": "1"}, {"columns": "70000"}, {"rows": "-1"}} {
		if _, err := Kind.New(virtio.Args{ID: "c", Values: v}); !errors.Is(err, virtio.ErrArgs) {
			t.Errorf("%v: %v", v, err)
		}
	}
}

func load(d *Device, payload []byte) error {
	return state.Load(state.Section{Version: 1, CRC: crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)), Payload: payload}, d)
}

func FuzzLoadState(f *testing.F) {
	f.Add([]byte(`{"columns":80,"rows":25,"input":"aGk=","sent":3}`))
	f.Add([]byte(`{"sent":-1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dev := device(t, Options{})
		if !json.Valid(data) || load(dev, data) != nil {
			_ = dev.Close()
			return
		}
		d := virtiotest.Start(t, dev, virtiotest.Options{})
		d.Queue(queueOut).Do(virtiotest.Out([]byte("x")))
	})
}

func TestHostileState(t *testing.T) {
	big, _ := json.Marshal(stateV1{Input: make([]byte, inputBuffer+1)})
	for _, p := range [][]byte{[]byte(`{"sent":-1}`), big} {
		if err := load(device(t, Options{}), p); !errors.Is(err, virtio.ErrState) {
			t.Errorf("%.40s: %v", p, err)
		}
	}
}
