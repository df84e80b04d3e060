package lazy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/uffd"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

const roleEnv = "HVCTL_TEST_FAULTS"

// The test binary plays the handler.
func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		if err := Serve(os.Args[1], slog.New(slog.DiscardHandler)); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const size = 16 << 20

// world is a snapshot, what it holds, and memory that is filled from it.
type world struct {
	t    *testing.T
	path string
	want []byte
	ram  *memory.Guest
	lost chan error
	*Filler
}

// newWorld writes a snapshot in which every third page is zero.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "snapshot"), want: make([]byte, size)}
	src := newRAM(t)
	r := rand.NewChaCha8([32]byte{1})
	for at := 0; at < size; at += memory.PageSize {
		if at/memory.PageSize%3 != 0 && at < size/2 || at/memory.PageSize%64 == 5 {
			_, _ = r.Read(w.want[at : at+memory.PageSize])
		}
	}
	copy(src.Regions()[0].Bytes, w.want)
	_, err := snapshot.Write(t.Context(), w.path, snapshot.Content{Regions: src.Regions(), MemoryFD: src.FD(), Description: []byte("{}")}, snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func newRAM(t *testing.T) *memory.Guest {
	t.Helper()
	ram, err := memory.New(memory.Options{Size: size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ram.Close() })
	return ram
}

// fill begins to fill new memory.
func (w *world) fill() {
	w.t.Helper()
	s, err := snapshot.Open(w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	w.ram, w.lost = newRAM(w.t), make(chan error, 1)
	w.Filler, err = Fill(s, w.ram.Regions(), Options{
		Command: []string{"/usr/bin/env", roleEnv + "=1", os.Args[0]},
		Lost:    func(err error) { w.lost <- err },
		Log:     slog.New(slog.DiscardHandler),

		LostFile: w.path + ".lost",
	})
	if errors.Is(err, uffd.ErrUnavailable) && os.Geteuid() != 0 {
		w.t.Skip(err)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := w.Close(); err != nil {
			w.t.Error(err)
		}
	})
}

// page reads one page the way a device does.
func (w *world) page(n int) {
	w.t.Helper()
	at := n * memory.PageSize
	if got := bytes.Clone(w.ram.Regions()[0].Bytes[at : at+memory.PageSize]); !bytes.Equal(got, w.want[at:at+memory.PageSize]) {
		w.t.Errorf("page %d is not what was saved", n)
	}
}

// populate waits for a page in a system call, which can be left alone.
func (w *world) populate(n int) <-chan error {
	done := make(chan error, 1)
	b := w.ram.Regions()[0].Bytes[n*memory.PageSize:][:memory.PageSize]
	go func() { done <- unix.Madvise(b, unix.MADV_POPULATE_READ) }()
	return done
}

func TestPagesComeWhenTheyAreTouchedAndAllOnRequest(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for _, n := range rand.New(rand.NewPCG(1, 2)).Perm(size / memory.PageSize)[:500] {
		w.page(n)
	}
	b := w.ram.Regions()[0].Bytes
	b[7*memory.PageSize] ^= 0xff // what is written stays
	w.want[7*memory.PageSize] ^= 0xff
	if err := os.Remove(w.path); err != nil { // a name that goes is no loss
		t.Fatal(err)
	}
	if err := w.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.Handler() != 0 {
		t.Error("there is still a handler")
	}
	if !bytes.Equal(b, w.want) {
		t.Error("the memory is not what was saved")
	}
}

func TestWhatTheFirstRestoreTouchedIsReadAhead(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for _, n := range []int{1000, 1, 333} {
		w.page(n)
	}
	if err := w.Complete(t.Context()); err != nil { // writes the note
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(w.path), WorkingSetFile))
	if err != nil || !strings.HasSuffix(string(b), "\n0 62\n0 0\n0 20\n") {
		t.Errorf("working set %q (%v)", b, err)
	}
	w.fill()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var st unix.Stat_t
		if err := unix.Fstat(w.ram.FD(), &st); err != nil {
			t.Fatal(err)
		}
		if got := st.Blocks * 512; got == 3*snapshot.ChunkSize {
			break
		} else if got > 3*snapshot.ChunkSize || time.Now().After(deadline) {
			t.Fatalf("%d bytes were read ahead, want %d", got, 3*snapshot.ChunkSize)
		}
	}
}

func TestAHandlerThatIsKilledIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for i := range 5 {
		pid := w.Handler()
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil { // so that faults are under way when it dies
			t.Fatal(err)
		}
		waits := w.populate(i * 100)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := <-waits; err != nil {
			t.Errorf("page %d: %v", i*100, err)
		}
		w.page(i * 100)
	}
	if err := w.Complete(t.Context()); err != nil || !bytes.Equal(w.ram.Regions()[0].Bytes, w.want) {
		t.Errorf("the memory is not what was saved (%v)", err)
	}
}

// TestAFileThatBreaksEndsTheGuest damages the file below a running guest. Nobody
// may ever read zeroes, or anything else, for a page that cannot be had.
func TestAFileThatBreaksEndsTheGuest(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func(f *os.File) error
		says   string
	}{
		{"truncated", func(f *os.File) error { return f.Truncate(3 << 20) }, "cut off since it was opened"},
		{"a bit flipped", func(f *os.File) error {
			_, err := f.WriteAt([]byte{0x55}, 2<<20+6<<20+4096*5+9)
			return err
		}, "checksum"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.fill()
			w.page(1)
			if err := os.Chmod(w.path, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(w.path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := tc.damage(f); err != nil {
				t.Fatal(err)
			}
			waits := w.populate((6 << 20) / memory.PageSize)
			select {
			case err := <-w.lost:
				if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("lost: %v", err)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("nobody is told")
			}
			if b, err := os.ReadFile(w.path + ".lost"); err != nil || !strings.Contains(string(b), tc.says) {
				t.Errorf("noted: %q (%v)", b, err)
			}
			select {
			case err := <-waits:
				t.Errorf("the page is there all the same (%v)", err)
			case <-time.After(100 * time.Millisecond):
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := w.Complete(ctx); !errors.Is(err, ErrLost) {
				t.Errorf("Complete: %v", err)
			}
		})
	}
}

func TestASnapshotOfOtherMemoryIsRefused(t *testing.T) {
	w := newWorld(t)
	s, err := snapshot.Open(w.path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ram, err := memory.New(memory.Options{Size: 2 * size})
	if err != nil {
		t.Fatal(err)
	}
	defer ram.Close()
	if _, err := Fill(s, ram.Regions(), Options{}); err == nil {
		t.Error("it was taken")
	}
}

func FuzzWorkingSet(f *testing.F) {
	l := layout{Regions: []place{{0x1000, 1 << 20}, {0x10000000, 3 << 12}}}
	for _, s := range []string{"", "0 1\n", "1 0\n0 15\n", "0 16\n", "-1 0\n", "1 1\n", "x\n"} {
		f.Add([]byte(workingSetHead + "id\n" + s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := decodeWorkingSet(b, "id", l)
		for _, c := range set {
			addr, n := l.bounds(c)
			if back, ok := l.at(addr); !l.has(c) || n == 0 || n > snapshot.ChunkSize || !ok || back != c {
				t.Fatal(fmt.Sprint(c, addr, n))
			}
		}
		if err != nil && set != nil {
			t.Fatal("an error and a set")
		}
	})
}
