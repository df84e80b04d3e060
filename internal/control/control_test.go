package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/exposition"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// fakeOwner answers everything, or fails everything.
type fakeOwner struct {
	stream func(*Peer)

	mu      sync.Mutex // guards what follows: a socket's messages order nothing for the race detector
	fails   error
	brought string // what the file had that came with an upgrade
	stops   []StopRequest
	sig     unix.Signal
}

// fail is what every answer is from now on.
func (o *fakeOwner) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fails = err
}

func (o *fakeOwner) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.fails
}

// told is what it was told last.
func (o *fakeOwner) told() (sig unix.Signal, stops []StopRequest, brought string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sig, o.stops, o.brought
}

func (o *fakeOwner) Info(context.Context) (Info, error) {
	return Info{Config: &workload.Config{ID: "x"}, State: workload.State{Status: workload.Running, PID: 7, Created: time.Now()}, Execs: []string{"a"}}, o.failure()
}

func (o *fakeOwner) Signal(_ context.Context, _ string, sig unix.Signal) error {
	o.mu.Lock()
	o.sig = sig
	o.mu.Unlock()
	return o.failure()
}

func (o *fakeOwner) Stop(_ context.Context, r StopRequest) (workload.Exit, error) {
	o.mu.Lock()
	o.stops = append(o.stops, r)
	o.mu.Unlock()
	return workload.Exit{Code: 3, At: time.Now()}, o.failure()
}
func (o *fakeOwner) Kill(context.Context) error    { return o.failure() }
func (o *fakeOwner) Pause(context.Context) error   { return o.failure() }
func (o *fakeOwner) Resume(context.Context) error  { return o.failure() }
func (o *fakeOwner) Suspend(context.Context) error { return o.failure() }
func (o *fakeOwner) Migrate(context.Context, workload.MigrateRequest) (json.RawMessage, error) {
	return json.RawMessage(`{"session":"x"}`), o.failure()
}

func (o *fakeOwner) PlanMigration(context.Context, workload.MigrateRequest) (json.RawMessage, error) {
	return json.RawMessage(`{"rows":[]}`), o.failure()
}

func (o *fakeOwner) Migration(context.Context) (workload.MigrationStatus, error) {
	return workload.MigrationStatus{State: workload.MigrationGoing, To: "unix:/x"}, o.failure()
}
func (o *fakeOwner) CancelMigration(context.Context) error         { return o.failure() }
func (o *fakeOwner) RecoverMigration(context.Context) error        { return o.failure() }
func (o *fakeOwner) Resolve(context.Context, ResolveRequest) error { return o.failure() }
func (o *fakeOwner) Upgrade(_ context.Context, r UpgradeRequest) (json.RawMessage, error) {
	b := make([]byte, 16)
	n, _ := r.Process.Read(b)
	o.mu.Lock()
	o.brought = string(b[:n])
	o.mu.Unlock()
	return json.RawMessage("{}"), errors.Join(o.failure(), r.Process.Close())
}

func (o *fakeOwner) Devices(context.Context) ([]workload.Device, error) {
	return []workload.Device{{ID: "root", Kind: "blk", Slot: 2, InUse: true}}, o.failure()
}

func (o *fakeOwner) Plug(_ context.Context, r workload.PlugRequest) (workload.Device, error) {
	b := make([]byte, 16)
	n, _ := r.Files[0].Read(b)
	o.mu.Lock()
	o.brought = string(b[:n])
	o.mu.Unlock()
	return workload.Device{ID: r.ID, Kind: "blk", Slot: 16, Plugged: true}, errors.Join(o.failure(), r.Files[0].Close())
}

func (o *fakeOwner) Unplug(context.Context, workload.UnplugRequest) error { return o.failure() }

func (o *fakeOwner) Dump(context.Context, DumpRequest) (workload.DumpReport, error) {
	return workload.DumpReport{CPUs: 1}, o.failure()
}
func (o *fakeOwner) Snapshot(context.Context, SnapshotRequest) (workload.SnapshotReport, error) {
	return workload.SnapshotReport{PausedNs: 1}, o.failure()
}
func (o *fakeOwner) Update(context.Context, workload.Update) error { return o.failure() }
func (o *fakeOwner) Wait(context.Context) (workload.Exit, error) {
	return workload.Exit{Code: 4, At: time.Now()}, o.failure()
}
func (o *fakeOwner) Resize(context.Context, ResizeRequest) error { return o.failure() }
func (o *fakeOwner) Stats(context.Context) (workload.Stats, error) {
	return workload.Stats{At: time.Now(), Counters: map[string]uint64{"exits": 1}}, o.failure()
}

func (o *fakeOwner) Trace(_ context.Context, r workload.TraceRequest, ready func(), fn func(workload.TraceExit) error) error {
	if o.failure() != nil {
		return o.failure()
	}
	ready()
	return fn(workload.TraceExit{Time: time.Now(), Reason: "io", Addr: r.Ports.First, Count: 1, Size: 1})
}

func (o *fakeOwner) Sample(ctx context.Context) (exposition.Sample, error) {
	s, err := o.Stats(ctx)
	return exposition.Sample{ID: "i", Name: "n", Stats: s}, err
}

func (o *fakeOwner) Tasks(context.Context) ([]workload.Task, error) {
	return []workload.Task{{PID: 1, State: "S", Started: time.Now(), Command: "sh"}}, o.failure()
}

func (o *fakeOwner) Copy(ctx context.Context, _ CopyRequest, accept func() (*Peer, error)) error {
	return o.Attach(ctx, AttachRequest{}, accept)
}

func (o *fakeOwner) Attach(_ context.Context, _ AttachRequest, accept func() (*Peer, error)) error {
	if o.failure() != nil {
		return o.failure()
	}
	p, err := accept()
	if err == nil {
		o.stream(p)
	}
	return err
}

func (o *fakeOwner) Exec(ctx context.Context, r ExecRequest, accept func() (*Peer, error)) (string, error) {
	if r.Detach {
		return "e1", o.failure()
	}
	if _, err := accept(); err != nil {
		return "", err
	}
	return "", o.failure() // after the upgrade: an error frame
}

func (o *fakeOwner) Events(_ context.Context, ready func(), fn func(Event) error) error {
	ready()
	return fn(Event{Time: time.Now(), Type: EventStart, ID: "x", Name: "n", Attr: map[string]string{"a": "b"}})
}

// serveFake serves o and returns its client.
func serveFake(t *testing.T, o Owner) *Client {
	t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &Client{Dial: func() (*net.UnixConn, error) { return net.DialUnix("unix", nil, addr) }}
}

func TestClientGetsValuesAndErrors(t *testing.T) {
	o := &fakeOwner{}
	c := serveFake(t, o)
	ctx := t.Context()
	if i, err := c.Info(ctx); err != nil || i.State.PID != 7 {
		t.Errorf("%+v, %v", i, err)
	}
	if e, err := c.Wait(ctx); err != nil || e.Code != 4 {
		t.Errorf("%+v, %v", e, err)
	}
	err := c.Signal(ctx, "", unix.SIGUSR1)
	if sig, _, _ := o.told(); err != nil || sig != unix.SIGUSR1 {
		t.Errorf("%v, %v", sig, err)
	}
	n := 5
	e, err := c.Stop(ctx, StopRequest{TimeoutSeconds: &n})
	if _, stops, _ := o.told(); err != nil || e.Code != 3 || *stops[0].TimeoutSeconds != 5 {
		t.Errorf("%+v, %v", e, err)
	}
	if id, err := c.ExecDetached(ctx, ExecRequest{Process: &specs.Process{Args: []string{"x"}}}); err != nil || id != "e1" {
		t.Errorf("%s, %v", id, err)
	}
	var seen []Event
	if err := c.Events(ctx, func(e Event) error { seen = append(seen, e); return nil }); err != nil || len(seen) != 1 {
		t.Errorf("%v, %v", seen, err)
	}
	for _, want := range []error{workload.ErrNotRunning, workload.ErrUnsupported, workload.ErrNotFound, ErrBusy} {
		o.fail(fmt.Errorf("web: %w", want))
		if _, err := c.Stats(ctx); !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "web: ") {
			t.Errorf("%v, want %v", err, want)
		}
	}
	o.fail(&workload.StartError{Code: 127, Err: errors.New("no such program")})
	var se *workload.StartError
	s, err := c.Exec(ctx, ExecRequest{Process: &specs.Process{Args: []string{"x"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Copy(nil, io.Discard, io.Discard); !errors.As(err, &se) || se.Code != 127 {
		t.Errorf("exec after the upgrade: %v", err)
	}
	if _, err := c.Attach(ctx, AttachRequest{}); !errors.As(err, &se) {
		t.Errorf("attach: %v", err)
	}
}

func TestNoOwnerIsNotRunning(t *testing.T) {
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"}
	c := &Client{Dial: func() (*net.UnixConn, error) { return net.DialUnix("unix", nil, addr) }}
	if _, err := c.Info(t.Context()); !errors.Is(err, workload.ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := c.Attach(t.Context(), AttachRequest{}); !errors.Is(err, workload.ErrNotRunning) {
		t.Errorf("nobody listens: %v", err)
	}
}

// An owner on its way out accepts a connection and closes it without a word.
func TestClosedWithoutAnAnswer(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	for _, c := range []struct {
		ended bool
		want  error
	}{{true, workload.ErrNotRunning}, {false, ErrGone}} {
		client := &Client{
			Dial:  func() (*net.UnixConn, error) { return net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)) },
			Ended: func(context.Context) bool { return c.ended },
		}
		if err := client.Signal(t.Context(), "", unix.SIGUSR1); !errors.Is(err, c.want) {
			t.Errorf("ended %v: %v, want %v", c.ended, err, c.want)
		}
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	c := serveFake(t, &fakeOwner{})
	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1/nope", "", 404},
		{"POST", "/v1/instance", "", 405},
		{"POST", "/v1/signal", `{"signal":"NOPE"}`, 400},
		{"POST", "/v1/signal", `{"signal":"TERM","x":1}`, 400},
		{"POST", "/v1/signal", `{"signal":"TERM"} {}`, 400},
		{"POST", "/v1/signal", `[`, 400},
		{"POST", "/v1/signal", `{"signal":"` + strings.Repeat("x", maxBody) + `"}`, 400},
		{"POST", "/v1/resize", `{"columns":0,"rows":5}`, 400},
		{"POST", "/v1/resize", `{"columns":70000,"rows":5}`, 400},
		{"POST", "/v1/exec", `{}`, 400},
		{"POST", "/v1/exec", `{"process":{"args":[""]}}`, 400},
		{"POST", "/v1/attach", `{}`, 400}, // no upgrade
	} {
		if status, ct, body := raw(t, c, r.method, r.path, r.body); status != r.status || ct != "application/json" || !bytes.Contains(body, []byte(`"error"`)) {
			t.Errorf("%s %s %.40s: %d %s %s, want %d", r.method, r.path, r.body, status, ct, body, r.status)
		}
	}
}

func TestContextEndsACall(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	own := errors.New("enough")
	c := serveFake(t, &blockingOwner{cancel: func() { cancel(own) }})
	if _, err := c.Wait(ctx); !errors.Is(err, own) {
		t.Errorf("%v", err)
	}
}

// blockingOwner never answers Wait, and says when it was asked.
type blockingOwner struct {
	fakeOwner
	cancel func()
}

func (o *blockingOwner) Wait(ctx context.Context) (workload.Exit, error) {
	o.cancel()
	<-ctx.Done() // the client hung up
	return workload.Exit{}, ctx.Err()
}

func TestTooManyConnections(t *testing.T) {
	c := serveFake(t, &fakeOwner{})
	var held []net.Conn
	defer func() {
		for _, h := range held {
			h.Close()
		}
	}()
	for range maxConnections {
		h, err := c.Dial()
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, h)
	}
	if _, err := c.Info(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
}

// pair is both ends of one stream.
func pair(t *testing.T, stall time.Duration) (*Peer, *Stream, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if c[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Cleanup(func() { c[0].Close(); c[1].Close() })
	return newPeer(c[0], nil, stall), NewStream(c[1], nil), c[1]
}

func TestStreamCarriesBothWays(t *testing.T) {
	p, s, _ := pair(t, StallTimeout)
	in := strings.Repeat("input ", 200_000)
	var got bytes.Buffer
	sizes, sigs := make(chan uint16, 2), make(chan int, 1)
	go func() {
		_, _ = p.Serve(Input{
			Stdin: func(b []byte) { got.Write(b); p.Credit(len(b)) },
			StdinClose: func() {
				_ = p.Output(FrameStdout, got.Bytes())
				_ = p.Output(FrameStderr, []byte("err"))
				p.Exit(workload.Exit{Code: 5, At: time.Now()})
			},
			Resize: func(c, r uint16) { sizes <- c; sizes <- r },
			Signal: func(n int) { sigs <- n },
		})
	}()
	if err := s.Resize(80, 24); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(15); err != nil {
		t.Fatal(err)
	}
	if c, r, n := <-sizes, <-sizes, <-sigs; c != 80 || r != 24 || n != 15 {
		t.Errorf("%d %d %d", c, r, n)
	}
	var out, errOut bytes.Buffer
	e, err := s.Copy(strings.NewReader(in), &out, &errOut)
	if err != nil || e.Code != 5 || out.String() != in || errOut.String() != "err" {
		t.Errorf("%+v, %v, %d bytes, %q", e, err, out.Len(), errOut.String())
	}
	<-p.Done()
}

// Input beyond the window is not sent until it was read, and resize and
// detach get through meanwhile.
func TestInputWaitsForCredit(t *testing.T) {
	p, s, _ := pair(t, StallTimeout)
	var held int
	resized := make(chan int, 1)
	served := make(chan bool, 1)
	go func() {
		detached, _ := p.Serve(Input{
			Stdin:  func(b []byte) { held += len(b) },
			Resize: func(uint16, uint16) { resized <- held },
		})
		served <- detached
	}()
	copied := make(chan error, 1)
	sent := &counting{n: 2 * StdinWindow, full: make(chan struct{})}
	go func() {
		_, err := s.Copy(sent, io.Discard, io.Discard)
		copied <- err
	}()
	<-sent.full
	if err := s.Resize(1, 1); err != nil {
		t.Fatal(err)
	}
	if n := <-resized; n > StdinWindow {
		t.Errorf("%d bytes on the way, the window is %d", n, StdinWindow)
	}
	s.Detach()
	if !<-served {
		t.Error("the detach was not seen")
	}
	if err := <-copied; !errors.Is(err, ErrDetached) {
		t.Errorf("Copy: %v", err)
	}
}

// counting reads n zeros and tells when it gave a window's worth.
type counting struct {
	n, given int
	full     chan struct{}
}

func (c *counting) Read(b []byte) (int, error) {
	if c.given == c.n {
		return 0, io.EOF
	}
	n := min(len(b), c.n-c.given)
	before := c.given
	c.given += n
	if before < StdinWindow && c.given >= StdinWindow {
		close(c.full)
	}
	return n, nil
}

func TestInputWithoutCreditEndsTheStream(t *testing.T) {
	p, _, conn := pair(t, StallTimeout)
	errs := make(chan error, 1)
	go func() {
		_, err := p.Serve(Input{Stdin: func([]byte) {}})
		errs <- err
	}()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	frame := appendFrame(nil, FrameStdin, make([]byte, maxPayload))
	for range StdinWindow/maxPayload + 1 {
		if _, err := conn.Write(frame); err != nil {
			break
		}
	}
	if err := <-errs; !errors.Is(err, ErrProtocol) {
		t.Errorf("%v", err)
	}
	<-p.Done()
}

// A client that does not read is dropped; what it held up goes on.
func TestStalledClientIsDropped(t *testing.T) {
	p, _, _ := pair(t, 50*time.Millisecond)
	b := make([]byte, 64<<10)
	var total int
	for {
		if err := p.Output(FrameStdout, b); err != nil {
			if !errors.Is(err, ErrGone) {
				t.Errorf("%v", err)
			}
			break
		}
		if total += len(b); total > 64<<20 {
			t.Fatal("64 MiB were taken for a client that reads nothing")
		}
	}
	<-p.Done()
}

// A client that lives but whose reader pauses is not dropped: it is a pipe.
func TestPausedReaderHoldsTheProcessUp(t *testing.T) {
	const stall = 50 * time.Millisecond
	p, s, _ := pair(t, stall)
	s.aliveEvery = stall / 5
	go func() { _, _ = p.Serve(Input{}) }()
	const total = 4 << 20
	done := make(chan error, 1)
	go func() {
		err := p.Output(FrameStdout, make([]byte, total))
		p.Exit(workload.Exit{})
		done <- err
	}()
	r, w := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		_, err := s.Copy(nil, w, w)
		w.Close()
		copied <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("4 MiB went into a buffer of one: %v", err)
	case <-time.After(10 * stall): // what is asserted is that nothing happens
	}
	n, err := io.Copy(io.Discard, r)
	if err != nil || n != total {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := errors.Join(<-done, <-copied); err != nil {
		t.Error(err)
	}
}

func TestOwnersMemoryForAClientIsBounded(t *testing.T) {
	p, s, _ := pair(t, StallTimeout)
	go func() {
		b := make([]byte, 32<<10)
		for range 256 { // 8 MiB
			if p.Output(FrameStdout, b) != nil {
				return
			}
			p.mu.Lock()
			n := cap(p.out)
			p.mu.Unlock()
			if n > 4*peerBuffer {
				t.Errorf("%d bytes are held", n)
			}
		}
		p.Exit(workload.Exit{})
	}()
	if _, err := s.Copy(nil, io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
}

func FuzzServeFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, FrameStdin, []byte("x")), FrameDetach, nil))
	f.Add(appendFrame(nil, FrameResize, []byte{0, 80, 0, 24}))
	f.Add(appendFrame(nil, FrameSignal, []byte{9, 9}))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := net.Pipe()
		defer b.Close()
		p := newPeer(a, bufio.NewReader(io.MultiReader(bytes.NewReader(in), eof{})), time.Second)
		go func() { _, _ = io.Copy(io.Discard, b) }()
		n := 0
		_, err := p.Serve(Input{
			Stdin: func(b []byte) { n += len(b) }, Resize: func(uint16, uint16) {}, Signal: func(int) {}, StdinClose: func() {},
		})
		if err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%v", err)
		}
		if n > StdinWindow || n > len(in) {
			t.Errorf("%d bytes of input from %d", n, len(in))
		}
		p.Close()
		<-p.Done()
	})
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

func FuzzCopyFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, FrameStdout, []byte("x")), FrameExit, []byte(`{"code":1}`)))
	f.Add(appendFrame(nil, FrameError, []byte(`{"error":"x","code":"not_running"}`)))
	f.Add(appendFrame(nil, FrameCredit, []byte{0, 0, 0, 1}))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, b := net.Pipe()
		defer b.Close()
		s := NewStream(a, bufio.NewReader(io.MultiReader(bytes.NewReader(in), eof{})))
		var out bytes.Buffer
		_, _ = s.Copy(nil, &out, &out)
		if out.Len() > len(in) {
			t.Errorf("%d bytes out of %d", out.Len(), len(in))
		}
	})
}
