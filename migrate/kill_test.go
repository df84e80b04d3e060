package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/transport"
	"github.com/hvctl/hvctl/migrate/wire"
)

// The processes of this file share a folder:
//
//	running     locked by whoever runs the guest: the kernel sees to it that a
//	            killed process holds it no more
//	bad         what must not happen, and did
//	dst, result the destination's socket; what became of it at the source
//
// The source starts again after it was killed and goes by its record, as an
// owner process would.

// runAmongProcesses takes the lock of the one runner.
func (w *world) runAmongProcesses(who string) {
	f, err := os.OpenFile(filepath.Join(w.dir, "running"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		complain(w.dir, "two runners: %s begins: %v", who, err)
		return
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(who), 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runner = f
}

func (w *world) stopAmongProcesses() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.runner != nil {
		_ = w.runner.Close()
		w.runner = nil
	}
}

func complain(dir, format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(dir, "bad"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, _ = fmt.Fprintf(f, format+"\n", args...)
		_ = f.Close()
	}
}

// child is the program of both sides. It returns only when something is wrong:
// its end is that its parent kills it.
func child(role string) int {
	dir := os.Getenv("MIGRATE_DIR")
	if role == "faults" {
		return serveFaults()
	}
	w := newWorld()
	w.dir = dir
	m, err := makeMachine(w, role, ramSize)
	if err == nil {
		if role == "source" {
			err = childSource(dir, m)
		} else {
			err = childDestination(dir, m)
		}
	}
	complain(dir, "%s: %v", role, err)
	return 1
}

func childSource(dir string, m *machine) error {
	var r rig
	quick(&r)
	o := r.send
	o.VM, o.Peer, o.Streams, o.AtOnce = "web", "there", 2, later()
	var d net.Dialer
	dial := func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", os.Getenv("MIGRATE_ADDR"))
	}
	j := commit.File(filepath.Join(dir, "record"))
	var err error
	switch rec, lerr := j.Load(); {
	case lerr == nil && rec.Verdict == commit.IntentRecord: // we were killed
		err = settle(nil, dial, j, o)
	case lerr == nil && rec.Verdict == commit.HandedRecord:
		err = nil
	case os.Getenv("MIGRATE_AGAIN") != "": // and had not gone far
		err = errors.New("killed before the intent")
	default:
		fill(m.g)
		m.rate = 5
		if err = m.Resume(context.Background()); err == nil {
			_, err = migrate.Send(context.Background(), m, dial, j, o)
			if errors.Is(err, migrate.ErrInDoubt) {
				err = settle(m, dial, j, o)
			}
		}
	}
	result := "handed"
	if err != nil {
		result = "kept: " + err.Error()
		if rerr := m.Resume(context.Background()); rerr != nil { // no effect when it runs already
			return rerr
		}
	}
	tmp := filepath.Join(dir, "result.tmp")
	if err := os.WriteFile(tmp, []byte(result), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, "result")); err != nil {
		return err
	}
	for { // the guest runs on, unlike in a process where everything waits
		time.Sleep(time.Hour)
	}
}

// settle asks until there is an answer.
func settle(src migrate.Source, dial migrate.Dial, j commit.Journal, o migrate.SendOptions) error {
	for {
		if err := migrate.Settle(context.Background(), src, dial, j, o); !errors.Is(err, migrate.ErrInDoubt) {
			return err
		}
	}
}

func childDestination(dir string, m *machine) error {
	var r rig
	quick(&r)
	o := r.receive
	o.Prepare = func(context.Context, migrate.Offer) (migrate.Destination, error) { return m, nil }
	o.Drop = func(migrate.Destination) { m.drop() }
	records, err := commit.OpenDir(filepath.Join(dir, "records"))
	if err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, "dst"))
	l, err := transport.Listen("unix:"+filepath.Join(dir, "dst"), transport.Options{})
	if err != nil {
		return err
	}
	if later() {
		takeLater(dir, m, l, &o)
	}
	return migrate.NewReceiver(records, o).Serve(context.Background(), l)
}

// spawn starts a child, and kills it at the end of the test.
func spawn(t *testing.T, role, dir, addr string, more ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), append(more, "MIGRATE_CHILD="+role, "MIGRATE_DIR="+dir, "MIGRATE_ADDR="+addr)...)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

// await waits until done is true.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestKilledProcessesLeaveOneRunner(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	for _, victim := range []string{"source", "destination"} {
		for _, typ := range []wire.Type{
			wire.Hello, wire.Offer, wire.Prepared, wire.Pages, wire.Applied, wire.State, wire.Final, wire.Ready, wire.Go, wire.Running,
		} {
			for _, f := range []fault{"", drop} {
				t.Run(fmt.Sprintf("%s at %v %s", victim, typ, f), func(t *testing.T) {
					t.Parallel()
					kill(t, victim, typ, 0, f)
				})
			}
		}
	}
}

// kill kills a process when the nth frame of a type comes, starts it again, and looks
// at what has become of the guest. more is the environment of both.
func kill(t *testing.T, victim string, typ wire.Type, nth int, f fault, more ...string) (dir string, handed bool) {
	dir = stateDir(t)
	dst := spawn(t, "destination", dir, "", more...)
	listens := func() bool {
		c, err := net.Dial("unix", filepath.Join(dir, "dst"))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	await(t, "the destination listens", listens)
	p := newProxy(t, &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "dst")}, typ, nth, f)
	addr := p.ln.Addr().String()
	died := make(chan struct{})
	var src *exec.Cmd
	ready := make(chan struct{})
	p.mu.Lock()
	p.hook = func() {
		<-ready
		c := src
		if victim == "destination" {
			c = dst
		}
		_ = c.Process.Kill()
		_ = c.Wait()
		close(died)
	}
	p.mu.Unlock()
	src = spawn(t, "source", dir, addr, more...)
	close(ready)
	select {
	case <-died:
	case <-time.After(20 * time.Second):
		t.Fatalf("the frame never came: %v", p.counts())
	}
	if victim == "source" {
		spawn(t, "source", dir, addr, append(more, "MIGRATE_AGAIN=1")...)
	} else {
		spawn(t, "destination", dir, "", more...)
		await(t, "the destination listens again", listens)
	}
	var result []byte
	await(t, "the source knows", func() bool {
		var err error
		result, err = os.ReadFile(filepath.Join(dir, "result"))
		return err == nil
	})
	t.Logf("%s", result)
	if bad, err := os.ReadFile(filepath.Join(dir, "bad")); err == nil {
		t.Errorf("%s", bad)
	}
	runner := whoRuns(t, dir)
	owner := ownerRecords(t, dir)
	handed = string(result) == "handed"
	switch {
	case handed && !owner:
		t.Error("handed over, and the destination has no owner record")
	case !handed && owner:
		t.Errorf("kept at the source, and the destination owns it too")
	case handed && victim == "source" && runner != "destination" && len(more) == 0:
		t.Errorf("handed over, %q runs", runner)
	case handed && victim == "destination" && runner == "source":
		t.Error("handed over, and the source runs") // "" is a guest that died with its host
	case !handed && runner != "source":
		t.Errorf("kept, %q runs", runner)
	}
	return dir, handed
}

// whoRuns returns who holds the lock.
func whoRuns(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "running"))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return ""
	}
	b, err := os.ReadFile(filepath.Join(dir, "running"))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// ownerRecords reports whether the destination has a record that says owner.
func ownerRecords(t *testing.T, dir string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "records", "*.json"))
	if err != nil {
		t.Error(err)
	}
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), `"verdict":"owner"`) {
			return true
		}
	}
	return false
}
