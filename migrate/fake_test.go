package migrate_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
)

const page = memory.PageSize

// world counts who runs: what the protocol is for.
type world struct {
	dir     string   // of files that stand for the world between processes; see kill_test.go
	runner  *os.File // the lock of the one runner among processes
	mu      sync.Mutex
	running map[string]bool
	locked  string // who holds the disks
	bad     []string
}

func newWorld() *world { return &world{running: map[string]bool{}, locked: "source"} }

func (w *world) run(who string) {
	if w.dir != "" {
		w.runAmongProcesses(who)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running[who] = true
	if len(w.running) > 1 {
		w.bad = append(w.bad, fmt.Sprintf("two runners: %v", w.running))
	}
	if w.locked != who {
		w.bad = append(w.bad, fmt.Sprintf("%s runs while %q holds the locks", who, w.locked))
	}
}

func (w *world) stop(who string) {
	if w.dir != "" {
		w.stopAmongProcesses()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, who)
}

func (w *world) lock(who string) error {
	if w.dir != "" {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.locked != "" && w.locked != who {
		return fmt.Errorf("the disks are locked by %s", w.locked)
	}
	w.locked = who
	return nil
}

func (w *world) unlock(who string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.locked == who {
		w.locked = ""
	}
}

func (w *world) runners() (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := range w.running {
		names = append(names, n)
	}
	return names
}

// machine is a fake of both sides: RAM, a guest that writes to it while it
// runs, and a state that has the hash of the RAM in it.
type machine struct {
	name  string
	world *world
	g     *memory.Guest
	rate  int // pages the guest writes per millisecond
	span  int // of so many pages

	mu      sync.Mutex
	running bool
	stop    chan struct{}
	wg      sync.WaitGroup
	logging bool
	percent int
	dropped bool
	huge    []memory.GPA
	failure map[string]error  // method name to what it returns
	later   func(hash string) // takes what LoadState would compare, when memory follows later
}

func newMachine(t testing.TB, w *world, name string, size uint64) *machine {
	t.Helper()
	m, err := makeMachine(w, name, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.halt(); _ = m.g.Close() })
	return m
}

func makeMachine(w *world, name string, size uint64) (*machine, error) {
	g, err := memory.New(memory.Options{Regions: []memory.Span{{GPA: 0, Size: size + 5*page}, {GPA: 4 << 30, Size: size}}})
	if err != nil {
		return nil, err
	}
	return &machine{name: name, world: w, g: g, failure: map[string]error{}, span: 512}, nil
}

func (m *machine) Regions() []memory.Region { return m.g.Regions() }
func (m *machine) MemoryFD() int            { return m.g.FD() }
func (m *machine) MakeHuge(a memory.GPA) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.huge = append(m.huge, a)
	if err := m.failure["MakeHuge"]; err != nil {
		return err
	}
	return m.g.MakeHuge(a)
}

// enlarged returns where huge pages were asked for.
func (m *machine) enlarged() []memory.GPA {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.huge)
}

func (m *machine) Discard(a memory.GPA, n uint64) error {
	return m.g.Discard(a, n)
}

func (m *machine) Resume(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.failure["Resume"]; err != nil || m.running {
		return err
	}
	m.running, m.stop = true, make(chan struct{})
	m.world.run(m.name)
	stop := m.stop
	m.wg.Go(func() { m.guest(stop) })
	return nil
}

// guest writes pages, some of them zeroes, until it is stopped.
func (m *machine) guest(stop chan struct{}) {
	if m.rate == 0 {
		<-stop
		return
	}
	rng := rand.New(rand.NewPCG(uint64(m.rate), 7))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, page)
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		m.mu.Lock()
		n := m.rate * (100 - m.percent) / 100
		m.mu.Unlock()
		for range n {
			clear(buf)
			if rng.IntN(4) > 0 {
				buf[rng.IntN(page)] = byte(rng.Uint32())
			}
			_ = m.g.WriteAt(buf, memory.GPA(rng.IntN(m.span)*page))
		}
	}
}

func (m *machine) Pause(context.Context) error {
	m.mu.Lock()
	err := m.failure["Pause"]
	m.mu.Unlock()
	if err == nil {
		m.halt()
	}
	return err
}

func (m *machine) halt() {
	m.mu.Lock()
	if m.running {
		m.running = false
		close(m.stop)
	}
	m.mu.Unlock()
	m.wg.Wait()
	m.world.stop(m.name)
}

func (m *machine) StartDirtyLog() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logging = true
	m.g.Dirty().Clear()
	return m.failure["StartDirtyLog"]
}

func (m *machine) StopDirtyLog() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logging = false
	return nil
}

func (m *machine) FetchDirty(region int, bitmap []uint64) error {
	clear(bitmap)
	r := m.g.Regions()[region]
	all := memory.NewBitmap(m.g.Size() / page)
	m.g.Dirty().Harvest(all)
	first := r.Offset / page
	for p := range r.Size / page {
		if all.Has(first + p) {
			bitmap[p/64] |= 1 << (p % 64)
		}
	}
	for from, n := range all.All() { // give the other regions' pages back
		for p := from; p < from+n; p++ {
			if p < first || p >= first+r.Size/page {
				m.g.Dirty().Set(p, 1)
			}
		}
	}
	return nil
}

func (m *machine) Throttle(percent int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.percent = percent
	return nil
}

func (m *machine) Release(context.Context) error {
	m.world.unlock(m.name)
	return m.failure["Release"]
}

func (m *machine) Acquire(context.Context) error {
	m.mu.Lock()
	err := m.failure["Acquire"]
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.world.lock(m.name)
}

func (m *machine) hash() string {
	h := sha256.New()
	for _, r := range m.g.Regions() {
		h.Write(r.Bytes)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (m *machine) StateVersion() uint32 { return 1 }

func (m *machine) SaveState() ([]state.Section, error) {
	if err := m.failure["SaveState"]; err != nil {
		return nil, err
	}
	// Saving dirties a page, as devices do.
	if err := m.g.WriteAt([]byte("saved"), 3*page); err != nil {
		return nil, err
	}
	sec, err := state.Save("hash", saver{m})
	return []state.Section{sec}, err
}

type saver struct{ m *machine }

func (s saver) StateVersion() uint32          { return 1 }
func (s saver) SaveState() (any, error)       { return s.m.hash(), nil }
func (s saver) LoadState(state.Decoder) error { return errors.New("not used") }

func (m *machine) LoadState(sections []state.Section) error {
	if err := m.failure["LoadState"]; err != nil {
		return err
	}
	var want string
	if len(sections) != 1 || json.Unmarshal(sections[0].Payload, &want) != nil {
		return fmt.Errorf("%d sections", len(sections))
	}
	if m.later != nil {
		m.later(want)
		return nil
	}
	if got := m.hash(); got != want {
		m.world.mu.Lock()
		m.world.bad = append(m.world.bad, "the memory that arrived is not the memory that was sent")
		m.world.mu.Unlock()
		return errors.New("memory damaged")
	}
	return nil
}

// rig is a source, a destination and what is between them.
type rig struct {
	world    *world
	src, dst *machine
	small    *machine // with less RAM
	receiver *migrate.Receiver
	records  *commit.Dir
	journal  commit.Journal
	dir      string
	ln       net.Listener
	dial     migrate.Dial
	send     migrate.SendOptions
	receive  migrate.ReceiveOptions
	cancel   context.CancelFunc
	served   chan error
}

const ramSize = 6 << 20

// stateDir is a folder for records, in memory where there is such a file
// system: on a busy disk one fsync takes longer than these tests wait for the
// other side.
func stateDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "migrate") //nolint:usetesting // see above
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newRig makes both sides with times short enough for tests. change may change
// the options before the receiver starts.
func newRig(t testing.TB, change func(*rig)) *rig {
	t.Helper()
	w := newWorld()
	r := &rig{world: w, src: newMachine(t, w, "source", ramSize), dst: newMachine(t, w, "destination", ramSize), dir: stateDir(t)}
	r.small = newMachine(t, w, "small", 1<<20)
	fill(r.src.g)
	r.journal = commit.File(filepath.Join(r.dir, "record"))
	r.send = migrate.SendOptions{
		VM: "web", Peer: "there", Streams: 2, Downtime: 200 * time.Millisecond, Blackout: 5 * time.Second, Backoff: 5 * time.Millisecond,
		Stall: 5 * time.Second, Keepalive: 600 * time.Millisecond, Answer: time.Second, Doubt: 3 * time.Second,
	}
	r.receive = migrate.ReceiveOptions{
		Prepare: func(context.Context, migrate.Offer) (migrate.Destination, error) { return r.fresh(t), nil },
		Drop:    func(d migrate.Destination) { d.(*machine).drop() },
		Go:      time.Second, Linger: 2 * time.Second, Stall: 5 * time.Second, Keepalive: 600 * time.Millisecond,
	}
	if os.Getenv("MIGRATE_LOG") != "" {
		r.send.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		r.receive.Log = r.send.Log
	}
	if change != nil {
		change(r)
	}
	var err error
	if r.ln == nil {
		if r.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	if r.dial == nil {
		var d net.Dialer
		r.dial = func(ctx context.Context) (net.Conn, error) {
			return d.DialContext(ctx, r.ln.Addr().Network(), r.ln.Addr().String())
		}
	}
	r.start(t)
	t.Cleanup(func() { r.halt(t) })
	if err := r.src.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// fresh returns a destination with RAM of zeroes.
func (r *rig) fresh(t testing.TB) *machine {
	if d := r.dst; d.dropped {
		r.dst = newMachine(t, r.world, "destination", ramSize)
		r.dst.failure = d.failure
	}
	return r.dst
}

// start starts the receiver, halt stops it.
func (r *rig) start(t testing.TB) {
	t.Helper()
	var err error
	if r.records, err = commit.OpenDir(filepath.Join(r.dir, "records")); err != nil {
		t.Fatal(err)
	}
	r.receiver = migrate.NewReceiver(r.records, r.receive)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.served = cancel, make(chan error, 1)
	receiver, ln, served := r.receiver, r.ln, r.served
	go func() { served <- receiver.Serve(ctx, ln) }()
}

func (r *rig) halt(t testing.TB) {
	t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	if err := <-r.served; err != nil {
		t.Errorf("serve: %v", err)
	}
	_ = r.records.Close()
	r.cancel = nil
}

func (m *machine) drop() {
	m.halt()
	m.mu.Lock()
	m.dropped = true
	m.mu.Unlock()
	m.world.unlock(m.name)
}

// fill writes pages with content, leaves holes, and makes zero pages that are
// no holes.
func fill(g *memory.Guest) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, r := range g.Regions() {
		for p := range r.Size / page {
			switch rng.IntN(4) {
			case 0, 1:
				r.Bytes[p*page+rng.Uint64N(page)] = byte(rng.Uint32N(255) + 1)
			case 2:
				clear(r.Bytes[p*page : (p+1)*page])
			}
		}
	}
}

// judge checks what must hold after every migration, however it went: exactly
// one runner, or a source that knows it is in doubt and stands still.
func (r *rig) judge(t *testing.T, sendErr error) {
	t.Helper()
	r.world.mu.Lock()
	for _, b := range r.world.bad {
		t.Error(b)
	}
	r.world.mu.Unlock()
	runners := r.world.runners()
	switch {
	case errors.Is(sendErr, migrate.ErrInDoubt):
		if len(runners) > 1 || len(runners) == 1 && runners[0] == "source" {
			t.Errorf("in doubt, and %v runs", runners)
		}
	case sendErr == nil:
		if len(runners) != 1 || runners[0] != "destination" {
			t.Errorf("Send says the machine went, %v runs", runners)
		}
	default:
		if len(runners) != 1 || runners[0] != "source" {
			t.Errorf("Send says the machine stayed (%v), %v runs", sendErr, runners)
		}
		r.src.mu.Lock()
		if r.src.logging || r.src.percent != 0 {
			t.Error("the source's dirty log or throttle is still on")
		}
		r.src.mu.Unlock()
	}
}
