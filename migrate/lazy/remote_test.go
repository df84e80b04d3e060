package lazy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/internal/uffd"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/transport"
)

const page = memory.PageSize

// leaver is a machine that is sent away: its guest changes every third page
// whenever anybody looks, and once more when it is paused.
type leaver struct {
	g      *memory.Guest
	mu     sync.Mutex
	paused bool
	times  byte
	owed   bool // the log has what was written last
}

func (m *leaver) Regions() []memory.Region            { return m.g.Regions() }
func (m *leaver) MemoryFD() int                       { return m.g.FD() }
func (m *leaver) StartDirtyLog() error                { return nil }
func (m *leaver) StopDirtyLog() error                 { return nil }
func (m *leaver) SaveState() ([]state.Section, error) { return nil, nil }
func (m *leaver) Resume(context.Context) error {
	m.mu.Lock()
	m.paused = false
	m.mu.Unlock()
	return nil
}

func (m *leaver) Pause(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.write()
	m.paused = true
	return nil
}

// write changes pages; some become zero.
func (m *leaver) write() {
	m.times++
	b := m.g.Regions()[0].Bytes
	for p := 0; p < len(b)/page; p += 3 {
		clear(b[p*page : p*page+64])
		if p%4 > 0 {
			b[p*page+p%page] = m.times + byte(p)
		}
	}
	m.owed = true
}

func (m *leaver) FetchDirty(_ int, bitmap []uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(bitmap)
	if !m.paused {
		m.write()
	}
	if !m.owed {
		return nil
	}
	m.owed = false
	for p := 0; p < size/page; p += 3 {
		bitmap[p/64] |= 1 << (p % 64)
	}
	return nil
}

func (m *leaver) isPaused() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.paused
}

// comer is the machine that it becomes.
type comer struct {
	g    *memory.Guest
	want []byte // what its memory has to be; changed by nobody when it runs
	runs chan struct{}
	t    *testing.T
}

func (m *comer) Regions() []memory.Region             { return m.g.Regions() }
func (m *comer) MemoryFD() int                        { return m.g.FD() }
func (m *comer) Discard(a memory.GPA, n uint64) error { return m.g.Discard(a, n) }
func (m *comer) Resume(context.Context) error         { close(m.runs); return nil }

// LoadState touches memory, as that of devices does.
func (m *comer) LoadState([]state.Section) error {
	for _, p := range []int{3, 9, 1000} {
		m.page(p)
	}
	return nil
}

// page waits for a page and looks at it. The wait is a system call, for the source is
// in this process, too, and could not serve it while the garbage collector waits for
// a goroutine that waits for the page.
func (m *comer) page(p int) {
	m.t.Helper()
	if err := <-m.populate(p); err != nil {
		m.t.Error(err)
	}
	if got := bytes.Clone(m.g.Regions()[0].Bytes[p*page : (p+1)*page]); !bytes.Equal(got, m.want[p*page:(p+1)*page]) {
		m.t.Errorf("page %d is not the source's", p)
	}
}

// populate waits for a page in a system call.
func (m *comer) populate(p int) <-chan error {
	done := make(chan error, 1)
	b := m.g.Regions()[0].Bytes[p*page:][:page]
	go func() { done <- unix.Madvise(b, unix.MADV_POPULATE_READ) }()
	return done
}

// cable carries connections, until it is cut.
type cable struct {
	to    string
	l     net.Listener
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func (c *cable) serve() {
	for {
		a, err := c.l.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("unix", c.to)
		c.mu.Lock()
		down := c.down || err != nil
		if err == nil {
			c.conns = append(c.conns, a, b)
		}
		c.mu.Unlock()
		if down {
			_ = a.Close()
			continue
		}
		go func() { _, _ = io.Copy(a, b); _, _ = a.Close(), b.Close() }()
		go func() { _, _ = io.Copy(b, a); _, _ = a.Close(), b.Close() }()
	}
}

// cut ends all connections, and refuses new ones if down.
func (c *cable) cut(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
	for _, x := range c.conns {
		_ = x.Close()
	}
	c.conns = nil
}

// later is a migration by post-copy, with what is around it.
type later struct {
	t       *testing.T
	src     *leaver
	dst     *comer
	from    migrate.Source      // src, unless it is a real one
	to      migrate.Destination // dst, likewise
	dir     string
	cable   *cable
	options migrate.SendOptions
	ended   chan struct{}
	word    chan commit.Event
	lost    chan error
	filler  *Filler
	remote  *Remote
	stop    func() // the receiver
	sent    chan error
	report  *migrate.Report
	serving chan struct{} // closed when the guest runs there and pages are served
}

func newLater(t *testing.T, change func(*later)) *later {
	t.Helper()
	m := &later{
		t: t, src: &leaver{g: newRAM(t)}, dir: t.TempDir(), ended: make(chan struct{}), word: make(chan commit.Event),
		lost: make(chan error, 1), sent: make(chan error, 1), serving: make(chan struct{}),
	}
	b := m.src.g.Regions()[0].Bytes
	r := rand.NewChaCha8([32]byte{2})
	for p := range size / page {
		if p%5 > 1 {
			_, _ = r.Read(b[p*page : (p+1)*page])
		}
	}
	m.dst = &comer{g: newRAM(t), want: b, runs: make(chan struct{}), t: t}
	m.from, m.to = m.src, m.dst
	m.remote = &Remote{
		Options: Options{
			Command: []string{"/usr/bin/env", roleEnv + "=1", os.Args[0]}, Lost: func(err error) { m.lost <- err },
			Log: slog.New(slog.DiscardHandler), LostFile: filepath.Join(m.dir, "lost"),
		},
		Filling: func(f *Filler) { m.filler = f },
	}
	once := sync.OnceFunc(func() { close(m.serving) })
	m.options = migrate.SendOptions{
		VM: "web", AtOnce: true, Streams: 2, Operator: m.word, Ended: m.ended, Backoff: 5 * time.Millisecond, Blackout: 20 * time.Second,
		Stall: 2 * time.Second, Keepalive: 300 * time.Millisecond,
		Progress: func(r migrate.Report) {
			if r.PostCopy != nil {
				once()
			}
		},
	}
	if change != nil {
		change(m)
	}
	m.receive()
	m.cable = &cable{to: filepath.Join(m.dir, "dst")}
	var err error
	if m.cable.l, err = net.Listen("unix", filepath.Join(m.dir, "cable")); err != nil {
		t.Fatal(err)
	}
	go m.cable.serve()
	t.Cleanup(func() { _ = m.cable.l.Close(); m.cable.cut(true); m.stop() })
	return m
}

// receive starts a receiver; stop ends it.
func (m *later) receive() {
	m.t.Helper()
	records, err := commit.OpenDir(filepath.Join(m.dir, "records"))
	if err != nil {
		m.t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(m.dir, "dst"))
	addr := "unix:" + filepath.Join(m.dir, "dst")
	l, err := transport.Listen(addr, transport.Options{})
	if err != nil {
		m.t.Fatal(err)
	}
	m.remote.Address = addr
	m.remote.Listener = func() (*os.File, error) { return transport.File(l) }
	r := migrate.NewReceiver(records, migrate.ReceiveOptions{
		Prepare: func(context.Context, migrate.Offer) (migrate.Destination, error) { return m.to, nil },
		Pull:    m.remote, Stall: 2 * time.Second, Keepalive: 300 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = r.Serve(ctx, l); _ = records.Close(); close(done) }()
	m.stop = sync.OnceFunc(func() {
		if m.filler != nil {
			_ = m.filler.Close()
		}
		cancel()
		<-done
	})
}

// send begins; it returns when the guest runs at its destination.
func (m *later) send() {
	m.t.Helper()
	if err := m.remote.Probe(m.dst.Regions()); errors.Is(err, uffd.ErrUnavailable) && os.Geteuid() != 0 {
		m.t.Skip(err)
	}
	dial, err := transport.Dial("unix:"+filepath.Join(m.dir, "cable"), transport.Options{})
	if err != nil {
		m.t.Fatal(err)
	}
	go func() {
		var err error
		m.report, err = migrate.Send(context.Background(), m.from, dial, commit.File(filepath.Join(m.dir, "record")), m.options)
		m.sent <- err
	}()
	select {
	case <-m.serving:
	case err := <-m.sent:
		m.t.Fatalf("%v, %+v", err, m.report)
	}
	if m.to == m.dst {
		<-m.dst.runs
	}
}

// finish waits for the end and compares all memory.
func (m *later) finish() {
	m.t.Helper()
	if err := <-m.sent; err != nil {
		m.t.Fatal(err)
	}
	if !m.src.isPaused() {
		m.t.Error("the source runs")
	}
	if m.report.Outcome != "handed" || m.report.PostCopy.State != "drained" || m.report.PostCopy.Left != 0 {
		m.t.Errorf("%s, %+v", m.report.Outcome, m.report.PostCopy)
	}
	if err := m.filler.Complete(m.t.Context()); err != nil {
		m.t.Error(err)
	}
	if !bytes.Equal(m.dst.g.Regions()[0].Bytes, m.dst.want) {
		m.t.Error("the memory is not the source's")
	}
	m.t.Logf("%+v", *m.report.PostCopy)
}

// slowly leaves time for things to happen while pages are missing.
func slowly(m *later) { m.options.Rate = 4 << 20 }

func TestPagesFollowTheGuest(t *testing.T) {
	t.Run("all of them", func(t *testing.T) {
		m := newLater(t, nil)
		m.send()
		for _, p := range rand.New(rand.NewPCG(3, 4)).Perm(size / page)[:500] {
			m.dst.page(p)
		}
		m.finish()
		if p := m.report.PostCopy; len(m.report.Rounds) != 0 || p.Faulted == 0 || p.Pushed == 0 || p.Arrival.Faults == 0 || p.Arrival.Max < p.Arrival.P50 || p.Arrival.P50 == 0 {
			t.Errorf("%+v", p)
		}
	})
	t.Run("those that changed last", func(t *testing.T) {
		m := newLater(t, func(m *later) {
			m.options.AtOnce, m.options.OnTimeout, m.options.Downtime = false, migrate.Later, time.Nanosecond
		})
		m.send()
		m.finish()
		if p := m.report.PostCopy; len(m.report.Rounds) < 3 || p.Missing != (size/page+2)/3 || p.Zero == 0 {
			t.Errorf("%d rounds, %+v", len(m.report.Rounds), p)
		}
	})
}

func TestAKilledHandlerIsReplacedAndAsksAgain(t *testing.T) {
	m := newLater(t, slowly)
	m.send()
	old := m.filler.Handler()
	if err := unix.Kill(old, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.dst.page(size/page - 2)
	m.finish()
	if m.report.PostCopy.Reconnects == 0 {
		t.Error("no connection broke")
	}
}

func TestACutLinkHoldsTheGuestUntilItIsBack(t *testing.T) {
	m := newLater(t, slowly)
	m.send()
	m.cable.cut(true)
	waits := m.dst.populate(size/page - 1)
	select {
	case err := <-waits:
		t.Fatalf("a page came over a cut link, %v", err)
	case <-time.After(200 * time.Millisecond): // nothing tells of what does not happen
	}
	m.cable.cut(false)
	m.word <- commit.Retry
	if err := <-waits; err != nil {
		t.Fatal(err)
	}
	m.dst.page(size/page - 1)
	for range 3 {
		m.cable.cut(false)
		m.dst.page(rand.IntN(size / page))
	}
	m.finish()
}

// isLost waits for the destination to give its guest up; until then and afterwards
// nobody reads zeroes.
func (m *later) isLost(waits <-chan error, why string) {
	m.t.Helper()
	select {
	case err := <-m.lost:
		if !errors.Is(err, migrate.ErrLost) || !strings.Contains(err.Error(), why) {
			m.t.Errorf("lost: %v, want %q", err, why)
		}
	case <-time.After(20 * time.Second):
		m.t.Fatal("nobody says that the guest is lost")
	}
	select {
	case err := <-waits:
		m.t.Errorf("a page was read whose source is gone, %v", err)
	default:
	}
	if b, err := os.ReadFile(m.remote.LostFile); err != nil || !strings.Contains(string(b), why) {
		m.t.Errorf("noted: %q, %v", b, err)
	}
}

func TestASourceThatEndsTakesTheGuestWithItAndSaysSo(t *testing.T) {
	m := newLater(t, slowly)
	m.send()
	close(m.ended)
	if err := <-m.sent; !errors.Is(err, migrate.ErrLost) {
		t.Error(err)
	}
	m.isLost(m.dst.populate(size/page-1), "the source has ended")
}

func TestASourceThatIsNotHeardOfAnyMoreEndsTheGuest(t *testing.T) {
	m := newLater(t, func(m *later) { slowly(m); m.remote.Wait = 300 * time.Millisecond })
	m.send()
	m.cable.cut(true)
	m.isLost(m.dst.populate(size/page-1), "has not been heard of")
	close(m.ended)
	if err := <-m.sent; !errors.Is(err, migrate.ErrLost) {
		t.Error(err)
	}
}

func TestAGuestThatEndsThereFreesTheSource(t *testing.T) {
	for name, again := range map[string]bool{"its owner says so": false, "its owner was killed and says so when it is back": true} {
		t.Run(name, func(t *testing.T) {
			m := newLater(t, slowly)
			m.send()
			if again {
				m.cable.cut(true)
				m.stop()
				m.receive()
				m.cable.cut(false)
			} else if err := m.filler.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-m.sent; err != nil {
				t.Error(err)
			}
			if m.report.Outcome != "handed" || m.report.PostCopy.State != "lost" || !m.src.isPaused() {
				t.Errorf("%s, %+v", m.report.Outcome, m.report.PostCopy)
			}
		})
	}
}

func TestAnOperatorGivesTheDestinationUp(t *testing.T) {
	m := newLater(t, slowly)
	m.send()
	m.word <- commit.KeepSource // the guest has run elsewhere: there is no way back
	m.word <- commit.KeepDest
	if err := <-m.sent; err != nil || m.report.PostCopy.State != "given-up" || !m.src.isPaused() {
		t.Errorf("%v, %+v", err, m.report.PostCopy)
	}
	m.isLost(m.dst.populate(size/page-1), "given it up")
}

func TestMemoryThatIsMappedTwiceCannotComeLater(t *testing.T) {
	g, err := memory.New(memory.Options{Size: 1 << 20, Pluggable: memory.Span{GPA: 4 << 30, Size: 2 << 20}, Block: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := (&Remote{}).Probe(g.Regions()); err == nil || !strings.Contains(err.Error(), "mapped twice") && !errors.Is(err, uffd.ErrUnavailable) {
		t.Errorf("Probe: %v", err)
	}
}
