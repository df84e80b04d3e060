package machine

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/gdbstub"
	"github.com/hvctl/hvctl/internal/machine/microguest"
	"github.com/hvctl/hvctl/internal/testenv"
)

// debugged starts a spinning machine and attaches a debugger to it.
func debugged(t *testing.T, c Config, code ...byte) (*Machine, *Debugger) {
	t.Helper()
	m := newMachine(t, c, code...)
	d, err := m.Debug() // before Run: it stands at its first instruction
	if err != nil {
		t.Fatal(err)
	}
	m.start(t, t.Context())
	t.Cleanup(func() {
		if err := d.Detach(); err != nil {
			t.Error(err)
		}
	})
	return m, d
}

// stop waits for the guest to stop.
func (d *Debugger) stop(t *testing.T) gdbstub.Stop {
	t.Helper()
	select {
	case s := <-d.stops:
		if err := d.Halt(); err != nil {
			t.Fatal(err)
		}
		return s
	case <-time.After(time.Minute):
		t.Fatal("the guest does not stop")
		return gdbstub.Stop{}
	}
}

func (d *Debugger) regs(t *testing.T, cpu int) gdbstub.Regs {
	t.Helper()
	r, err := d.Regs(cpu)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run lets the first CPU run, or makes one step of it.
func (d *Debugger) run(t *testing.T, step bool) {
	t.Helper()
	run, s := make([]bool, d.CPUs()), make([]bool, d.CPUs())
	for i := range run {
		run[i] = true
	}
	s[0] = step
	if err := d.Resume(run, s); err != nil {
		t.Fatal(err)
	}
}

func TestDebuggerStepsFromTheFirstInstruction(t *testing.T) {
	m, d := debugged(t, Config{}, spin...)
	for _, want := range []uint64{microguest.KernelAt + 7, microguest.KernelAt, microguest.KernelAt + 7} {
		d.run(t, true)
		s := d.stop(t)
		if r := d.regs(t, 0); r.RIP != want || s.Signal != gdbstub.SigTrap || s.Break != nil {
			t.Errorf("stopped by %+v at %#x, want a step to %#x", s, r.RIP, want)
		}
	}
	if n := m.counted(t); n != 2 {
		t.Errorf("the guest counted to %d in three steps, want 2", n)
	}
}

func TestDebuggerSeesBreakpointsAndHidesThem(t *testing.T) {
	for _, kind := range []gdbstub.BreakKind{gdbstub.SoftBreak, gdbstub.HardBreak} {
		m, d := debugged(t, Config{}, spin...)
		b := gdbstub.Break{Kind: kind, Addr: microguest.KernelAt + 7, Size: 1}
		if err := d.SetBreak(0, b); err != nil {
			t.Fatal(err)
		}
		code := make([]byte, len(spin))
		if n, err := d.ReadMemory(0, microguest.KernelAt, code); err != nil || n != len(code) || string(code) != string(spin) {
			t.Errorf("kind %d: the code reads %x, %v", kind, code, err)
		}
		d.run(t, false)
		s := d.stop(t)
		if r := d.regs(t, 0); r.RIP != b.Addr || s.Break == nil || s.Break.Kind != kind {
			t.Errorf("kind %d: stopped by %+v at %#x", kind, s, r.RIP)
		}
		if n := m.counted(t); n != 1 {
			t.Errorf("kind %d: counted to %d", kind, n)
		}
		if err := d.ClearBreak(b); err != nil {
			t.Fatal(err)
		}
		d.run(t, false)
		eventually(t, "it counts on", func() bool { return m.counted(t) > 10 })
		if err := d.Halt(); err != nil {
			t.Fatal(err)
		}
		n := m.counted(t)
		if m.counted(t) != n {
			t.Error("it runs though it was halted")
		}
	}
}

func TestDebuggerWatchesMemory(t *testing.T) {
	testenv.Require(t, testenv.Linux) // where supervisor code is interpreted, KVM knows none
	_, d := debugged(t, Config{}, spin...)
	b := gdbstub.Break{Kind: gdbstub.WriteWatch, Addr: counterAt, Size: 4}
	if err := d.SetBreak(0, b); err != nil {
		t.Fatal(err)
	}
	d.run(t, false)
	if s := d.stop(t); s.Break == nil || *s.Break != b {
		t.Errorf("stopped by %+v", s)
	}
	for i, err := range []error{
		d.SetBreak(0, gdbstub.Break{Kind: gdbstub.ReadWatch, Addr: 1, Size: 1}),
		d.SetBreak(0, gdbstub.Break{Kind: gdbstub.WriteWatch, Addr: 1, Size: 4}),
		d.SetBreak(0, gdbstub.Break{Kind: gdbstub.WriteWatch, Addr: 0, Size: 3}),
	} {
		if !errors.Is(err, gdbstub.ErrUnsupported) {
			t.Errorf("watchpoint %d that the processor does not have: %v", i, err)
		}
	}
}

func TestDebuggerWritesRegistersAndMemory(t *testing.T) {
	_, d := debugged(t, Config{}, spin...)
	r := d.regs(t, 0)
	r.GP[0], r.RIP, r.XMM[3][5], r.FSBase = 0x1234, microguest.KernelAt+7, 9, 0x7000
	if err := d.SetRegs(0, r); err != nil {
		t.Fatal(err)
	}
	if got := d.regs(t, 0); got != r {
		t.Errorf("registers\n%+v, want\n%+v", got, r)
	}
	if err := d.WriteMemory(0, counterAt, []byte{1, 2, 3, 4}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if n, err := d.ReadMemory(0, counterAt, got); n != 4 || err != nil || string(got) != "\x01\x02\x03\x04" {
		t.Errorf("%x, %v", got, err)
	}
	if n, err := d.ReadMemory(0, 0xf000_0000, got); n != 0 || err == nil {
		t.Errorf("%d bytes where no RAM is, %v", n, err)
	}
	if n, err := d.ReadMemory(0, 16<<20-2, got); n != 2 || err != nil {
		t.Errorf("%d bytes at the end of RAM, %v", n, err)
	}
}

func TestPauseAndResumeLeaveWhatTheDebuggerHolds(t *testing.T) {
	m, d := debugged(t, Config{}, spin...)
	for _, do := range []func() error{func() error { return m.Pause(t.Context()) }, func() error { return m.Resume(t.Context()) }} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.counted(t); n != 0 {
		t.Errorf("counted to %d: Resume let a held vCPU run", n)
	}
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SaveState(); !errors.Is(err, ErrDebugged) {
		t.Errorf("state saved beside a debugger: %v", err)
	}
	if _, err := m.Debug(); !errors.Is(err, ErrDebugged) {
		t.Errorf("a second debugger: %v", err)
	}
	if err := d.Detach(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SaveState(); err != nil {
		t.Error(err)
	}
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it counts", func() bool { return m.counted(t) > 10 })
}

func TestACrashIsShownToTheDebuggerFirst(t *testing.T) {
	m := newMachine(t, Config{}, 0x0f, 0x0b) // ud2, without handlers
	d, err := m.Debug()
	if err != nil {
		t.Fatal(err)
	}
	ends := m.start(t, t.Context())
	d.run(t, false)
	if s := d.stop(t); s.Signal != gdbstub.SigAbrt || s.Ended {
		t.Errorf("stopped by %+v", s)
	}
	d.regs(t, 0)
	select {
	case e := <-ends:
		t.Fatalf("it ended (%v) while the debugger looks", e)
	default:
	}
	d.run(t, false)
	if e := <-ends; e.Reason != TripleFault {
		t.Error(e)
	}
	if s := <-d.stops; !s.Ended {
		t.Errorf("told %+v at the end", s)
	}
	if err := d.Detach(); err != nil {
		t.Error(err)
	}
}

// TestGDB lets the real one loose on a guest.
func TestGDB(t *testing.T) {
	testenv.Require(t, testenv.GDB)
	gdb, err := exec.LookPath("gdb")
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, Config{CPUs: 2}, spin...)
	first, err := m.Debug()
	if err != nil {
		t.Fatal(err)
	}
	a := gdbstub.Address{Network: "unix", Addr: filepath.Join(t.TempDir(), "gdb")}
	l, err := a.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(testWriter{t}, nil))
	go func() {
		served <- gdbstub.Serve(ctx, l, first, func() (gdbstub.Target, error) { return m.Debug() }, log)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	m.start(t, t.Context())
	session := func(commands ...string) string {
		t.Helper()
		args := []string{"-nx", "-batch", "-ex", "set architecture i386:x86-64", "-ex", "target remote " + a.Addr}
		for _, c := range commands {
			args = append(args, "-ex", c)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, gdb, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("gdb: %v\n%s", err, out)
		}
		return string(out)
	}
	out := session("info threads", "print/x $rip", "stepi", "stepi", "print/x $rip", "hbreak *0x100007", "break *0x100000", "continue",
		"continue", "print/x $pc", "print $cr0 & 1", "x/4xb 0x180000", "set var *(int*)0x180000 = 0x01020304", "x/xw 0x180000", "set var $rbx = 77",
		"print $rbx", "delete", "thread 2", "detach")
	for _, want := range []string{
		"(vCPU 0", "(vCPU 1", "$1 = 0x100000", "$2 = 0x100000", "Breakpoint 1, ", "Breakpoint 2, ", "$3 = 0x100000", "$4 = 1",
		"0x180000:\t0x02\t0x00\t0x00\t0x00", "0x180000:\t0x01020304", "$5 = 77", "detached",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("gdb did not say %q:\n%s", want, out)
		}
	}
	eventually(t, "it counts on after detach", func() bool { return m.counted(t) > 0x01020310 })
	out = session("print/x *(int*)0x180000", "kill") // it runs on, and is attached to while it runs
	_, v, _ := strings.Cut(out, "$1 = 0x")
	v, _, _ = strings.Cut(v, "\n")
	if seen, err := strconv.ParseUint(v, 16, 32); err != nil || seen <= 0x01020310 {
		t.Errorf("gdb on a running guest: %v\n%s", err, out)
	}
	n := m.counted(t)
	eventually(t, "it counts on after kill", func() bool { return m.counted(t) > n })
}

// testWriter logs to a test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
