package instance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/workload"
)

func logInstance(t *testing.T, l workload.Log) (*Instance, *LogWriter) {
	t.Helper()
	i, err := newStore(t).Create(&workload.Config{Name: "web", Log: l}, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := i.WriteState(workload.State{Status: workload.Running}); err != nil {
		t.Fatal(err)
	}
	w, err := i.OpenLog()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return i, w
}

func readAll(t *testing.T, i *Instance) (out []Entry) {
	t.Helper()
	if err := i.ReadLog(t.Context(), ReadOptions{}, func(e Entry) error { out = append(out, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLogKeepsBytes(t *testing.T) {
	i, w := logInstance(t, workload.Log{})
	all := make([]byte, 256)
	for n := range all {
		all[n] = byte(n)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	pieces := [][]byte{[]byte("plain\n"), []byte("q\"\\\t\r\x00\x1f\x7f ü \u2028</script>"), all, []byte("\xc3")}
	for n, p := range pieces {
		if err := w.Append(at, []string{Stdout, Stderr}[n%2], p); err != nil {
			t.Fatal(err)
		}
	}
	got := readAll(t, i)
	if len(got) != len(pieces) {
		t.Fatalf("%d entries", len(got))
	}
	for n, e := range got {
		if !bytes.Equal(e.Data(), pieces[n]) || !e.Time.Equal(at) || e.Stream != []string{Stdout, Stderr}[n%2] {
			t.Errorf("%d: %q at %v on %s", n, e.Data(), e.Time, e.Stream)
		}
	}
}

func FuzzLogEntry(f *testing.F) {
	f.Add([]byte("a\n\"\\\x00\xff"))
	f.Add([]byte("\u2028\u00fc"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var e Entry
		line := appendEntry(nil, time.Unix(0, 0), Stdout, p)
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if bytes.Count(line, []byte("\n")) != 1 || !bytes.Equal(e.Data(), p) {
			t.Errorf("%q became %q", p, e.Data())
		}
	})
}

func TestLogIsBounded(t *testing.T) {
	i, w := logInstance(t, workload.Log{MaxBytes: 1000, Files: 3})
	for n := range 200 {
		if err := w.Append(time.Now(), Stdout, fmt.Appendf(nil, "line %d\n", n)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(i.Dir(), LogFile+"*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || st.Size() > 1000 {
			t.Errorf("%s: %d bytes, %v", f, st.Size(), err)
		}
	}
	got := readAll(t, i)
	first := 200 - len(got)
	for n, e := range got {
		if want := fmt.Sprintf("line %d\n", first+n); string(e.Data()) != want {
			t.Fatalf("entry %d is %q, want %q", n, e.Data(), want)
		}
	}
	if len(got) < 20 {
		t.Errorf("only %d entries kept", len(got))
	}
}

func TestLogOffKeepsNothing(t *testing.T) {
	i, w := logInstance(t, workload.Log{Off: true})
	if err := w.Append(time.Now(), Stdout, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, i); len(got) != 0 {
		t.Errorf("kept %v", got)
	}
}

// A reader that follows sees every line once, in order, over rotations, and
// returns when the owner records the end.
func TestFollowOverRotationUntilExit(t *testing.T) {
	i, w := logInstance(t, workload.Log{MaxBytes: 4000, Files: 4})
	const lines = 500
	seen := make(chan string, lines)
	done := make(chan error, 1)
	go func() {
		r, err := OpenDir(i.Dir())
		if err == nil {
			err = r.ReadLog(t.Context(), ReadOptions{Follow: true}, func(e Entry) error { seen <- e.Text; return nil })
		}
		done <- err
	}()
	for n := range lines {
		if err := w.Append(time.Now(), Stdout, fmt.Appendf(nil, "%d", n)); err != nil {
			t.Fatal(err)
		}
		if n%20 == 19 { // never more than a file ahead of the reader
			for m := n - 19; m <= n; m++ {
				if got := <-seen; got != fmt.Sprint(m) {
					t.Fatalf("got %s, want %d", got, m)
				}
			}
		}
	}
	if err := i.WriteState(workload.State{Status: workload.Exited}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(seen) != 0 {
		t.Errorf("%d lines too many", len(seen))
	}
}

func TestFollowEndsWhenOwnerIsKilled(t *testing.T) {
	i, w := logInstance(t, workload.Log{})
	_ = w.Append(time.Now(), Stdout, []byte("hello"))
	c, _ := owner(t, i)
	got := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		r, err := OpenDir(i.Dir())
		if err == nil {
			err = r.ReadLog(t.Context(), ReadOptions{Follow: true}, func(e Entry) error { got <- e.Text; return nil })
		}
		done <- err
	}()
	if s := <-got; s != "hello" {
		t.Fatal(s)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFollowEndsWithContextAndRemoval(t *testing.T) {
	i, w := logInstance(t, workload.Log{})
	_ = w.Append(time.Now(), Stdout, []byte("x"))
	follow := func(ctx context.Context, see func()) chan error {
		done := make(chan error, 1)
		r, err := OpenDir(i.Dir())
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- r.ReadLog(ctx, ReadOptions{Follow: true}, func(Entry) error { see(); return nil }) }()
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := <-follow(ctx, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	started := make(chan struct{})
	done := follow(t.Context(), func() { close(started) })
	<-started
	if err := i.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("removed: %v", err)
	}
}

// TestLogGoesOnAfterAFullDisk: what was half written when the disk was full does
// not make the rest unreadable. The file size limit stands for the disk.
func TestLogGoesOnAfterAFullDisk(t *testing.T) {
	i, w := logInstance(t, workload.Log{})
	if err := w.Append(time.Now(), Stdout, []byte("before")); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	full := old
	full.Cur = uint64(w.size) + 10
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	err := w.Append(time.Now(), Stdout, []byte("too much"))
	if rerr := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); rerr != nil {
		t.Fatal(rerr)
	}
	if err == nil {
		t.Fatal("nothing was refused")
	}
	if err := w.Append(time.Now(), Stdout, []byte("after")); err != nil {
		t.Fatal(err)
	}
	got := readAll(t, i)
	if len(got) != 2 || string(got[0].Data()) != "before" || string(got[1].Data()) != "after" {
		t.Errorf("entries %+v", got)
	}
}

func TestDamagedLogIsReported(t *testing.T) {
	i, _ := logInstance(t, workload.Log{})
	for _, content := range []string{"not json\n", strings.Repeat("x", maxEntry+10) + "\n"} {
		if err := os.WriteFile(filepath.Join(i.Dir(), LogFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := i.ReadLog(t.Context(), ReadOptions{}, func(Entry) error { return nil }); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%.10q: %v", content, err)
		}
	}
	if err := os.WriteFile(filepath.Join(i.Dir(), LogFile), []byte(`{"t":"2026-01-01T00:00:00Z","s":"stdout","d":"cut`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := i.ReadLog(t.Context(), ReadOptions{}, func(Entry) error { return nil }); err != nil {
		t.Errorf("half a line at the end: %v", err)
	}
}
