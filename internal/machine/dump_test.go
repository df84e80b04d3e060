package machine

import (
	"context"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

func dumpFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "core"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestDumpOfARunningGuestIsOneGDBReads(t *testing.T) {
	m := newMachine(t, Config{CPUs: 2}, spin...)
	m.start(t, t.Context())
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
	f := dumpFile(t)
	r, err := m.Dump(t.Context(), f)
	if err != nil || r.CPUs != 2 || r.StoredBytes == 0 || r.StoredBytes > 1<<20 {
		t.Fatalf("%+v, %v", r, err)
	}
	n := m.counted(t)
	eventually(t, "it counts on", func() bool { return m.counted(t) > n })
	if out, err := exec.Command("readelf", "-l", "-n", "-W", f.Name()).CombinedOutput(); err != nil || strings.Contains(string(out), "Warning") ||
		strings.Count(string(out), "NT_PRSTATUS") != 2 {
		t.Errorf("readelf: %v\n%s", err, out)
	}
	testenv.Require(t, testenv.GDB)
	gdb, err := exec.LookPath("gdb")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(gdb, "-nx", "-batch", "-ex", "set architecture i386:x86-64", "-ex", "core-file "+f.Name(),
		"-ex", "info threads", "-ex", "x/2i 0x100000", "-ex", "print *(int*)0x180000 > 0", "-ex", "print/x (unsigned long)$pc & ~7").CombinedOutput()
	for _, want := range []string{"LWP 1", "LWP 2", "lock incl", "$1 = 1", "$2 = 0x100000"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("gdb does not say %q: %v\n%s", want, err, out)
		}
	}
}

func TestACrashedGuestIsDumpedBeforeItGoes(t *testing.T) {
	f := dumpFile(t)
	var m *Machine
	var failed error
	m = newMachine(t, Config{Ending: func(ctx context.Context, e End) {
		if e.Reason == TripleFault {
			_, failed = m.Dump(ctx, f)
		}
	}}, 0xbb, 0x44, 0x33, 0x22, 0x11, 0x0f, 0x0b) // mov ebx, 0x11223344; ud2
	if end := m.Run(t.Context()); end.Reason != TripleFault || failed != nil {
		t.Fatalf("%v, %v", end, failed)
	}
	if e, err := elf.NewFile(f); err != nil || len(e.Progs) < 2 {
		t.Errorf("%v", err)
	}
	if _, err := m.Dump(t.Context(), dumpFile(t)); !errors.Is(err, ErrEnded) {
		t.Errorf("a dump after the end: %v", err)
	}
}

func TestDumpLeavesAPausedGuestPaused(t *testing.T) {
	m := newMachine(t, Config{}, spin...)
	m.start(t, t.Context())
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Dump(t.Context(), dumpFile(t)); err != nil || !m.Paused() {
		t.Errorf("%v, paused %v", err, m.Paused())
	}
}
