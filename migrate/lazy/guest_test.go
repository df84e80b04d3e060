package lazy

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/machine/microguest"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

// sweep adds up the first words of the pages at 4 MiB to 12 MiB, again and again, in EAX, which it
// stores at microguest.CounterAt after each sweep with the number of sweeps after
// it.
var sweep = []byte{
	0x31, 0xdb, // xor ebx, ebx
	0x31, 0xc0, // again: xor eax, eax
	0xbe, 0x00, 0x00, 0x40, 0x00, // mov esi, 4 MiB
	0x03, 0x06, // next: add eax, [esi]
	0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, // add esi, 4096
	0x81, 0xfe, 0x00, 0x00, 0xc0, 0x00, // cmp esi, 12 MiB
	0x72, 0xf0, // jb next
	0x43,                         // inc ebx
	0xa3, 0x00, 0x00, 0x18, 0x00, // mov [CounterAt], eax
	0x89, 0x1d, 0x04, 0x00, 0x18, 0x00, // mov [CounterAt+4], ebx
	0xeb, 0xdb, // jmp again
}

func word(m *machine.Machine, at int) uint32 {
	b := m.Regions()[0].Bytes[at:]
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// run lets m run until the test's end, or stop.
func run(t *testing.T, m *machine.Machine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(func() {
		stop()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

// sweeping is a guest that sweeps, and has twice.
func sweeping(t *testing.T) *machine.Machine {
	t.Helper()
	testenv.Require(t, testenv.KVM)
	kernel := filepath.Join(t.TempDir(), "kernel")
	if err := microguest.Write(kernel, sweep...); err != nil {
		t.Fatal(err)
	}
	m, err := machine.New(machine.Config{Kernel: kernel, MemoryBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	b := m.Regions()[0].Bytes
	for at := 4 << 20; at < 12<<20; at += memory.PageSize {
		b[at+at>>12&3] = byte(at>>12) | 1
	}
	run(t, m)
	eventually(t, "the guest has swept twice", func() bool { return word(m, microguest.CounterAt+4) >= 2 })
	return m
}

// saved is the snapshot of such a guest, and the sum it gets.
func saved(t *testing.T) (path string, sum uint32) {
	t.Helper()
	m := sweeping(t)
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	sections, err := m.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "snapshot")
	_, err = snapshot.Write(t.Context(), path, snapshot.Content{Regions: m.Regions(), MemoryFD: m.MemoryFD(), Sections: sections, Description: []byte("{}")}, snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return path, word(m, microguest.CounterAt)
}

// goOn restores it lazily, and lets it run after before.
func goOn(t *testing.T, path string, before func(*machine.Machine)) (*machine.Machine, *Filler, chan error) {
	t.Helper()
	s, err := snapshot.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := machine.New(machine.Config{MemoryBytes: size, Restore: &machine.Restore{}})
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1)
	f, err := Fill(s, m.Regions(), Options{
		Command: []string{"/usr/bin/env", roleEnv + "=1", os.Args[0]}, Log: slog.New(slog.DiscardHandler),
		Lost: func(err error) { lost <- err },
	})
	if err != nil {
		t.Fatal(errors.Join(err, m.Close()))
	}
	if err := m.LoadState(s.Sections()); err != nil {
		t.Fatal(err)
	}
	before(m)
	stop := run(t, m)
	t.Cleanup(func() {
		if err := f.Close(); err != nil { // lets a processor go that waits for a page
			t.Error(err)
		}
		stop()
	})
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m, f, lost
}

func TestAGuestFindsItsMemoryAsItTouchesIt(t *testing.T) {
	path, sum := saved(t)
	for _, known := range []bool{false, true} { // its working set
		m, f, _ := goOn(t, path, func(*machine.Machine) {})
		for range 3 { // handlers die under it
			_ = unix.Kill(f.Handler(), unix.SIGKILL)
			n := word(m, microguest.CounterAt+4)
			eventually(t, "the guest sweeps on", func() bool { return word(m, microguest.CounterAt+4) != n })
			if got := word(m, microguest.CounterAt); got != sum {
				t.Errorf("working set known %v: the sum is %#x, it was %#x", known, got, sum)
			}
		}
		if err := f.Complete(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestAGuestNeverRunsOnZeroes cuts the file off: the guest must not finish the
// sweep that it was in.
func TestAGuestNeverRunsOnZeroes(t *testing.T) {
	path, _ := saved(t)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	var n uint32
	m, _, lost := goOn(t, path, func(m *machine.Machine) {
		// Now, for once the memory is lost a look at it may last.
		n = word(m, microguest.CounterAt+4)
		if err := os.Truncate(path, 10<<20); err != nil { // 8 MiB of memory are left
			t.Fatal(err)
		}
	})
	select {
	case err := <-lost:
		if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("lost: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("nobody is told")
	}
	time.Sleep(100 * time.Millisecond) // a wrong one would have swept many times
	if got := word(m, microguest.CounterAt+4); got != n {
		t.Errorf("the guest has swept %d times since", got-n)
	}
}
