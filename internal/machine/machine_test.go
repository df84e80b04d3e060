package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/rng"
)

func TestEveryEndHasItsReason(t *testing.T) {
	for _, tc := range []struct {
		name      string
		transport Transport
		code      []byte
		want      Reason
	}{
		{"S5", MMIO, outb(portPower+offSleep, 0x34), PowerOff},
		{"reset register", MMIO, outb(portPower+offReset, resetValue), Reboot},
		{"keyboard controller", MMIO, outb(0x64, 0xfe), Reboot},
		{"port cf9", MMIO, outb(0xcf9, 6), Reboot},
		{"port cf9 with PCI", PCI, outb(0xcf9, 6), Reboot},
		{"jump to the BIOS", MMIO, []byte{0xb8, 0xf0, 0xff, 0x0f, 0x00, 0xff, 0xe0}, Reboot}, // mov eax, 0xffff0; jmp eax
		{"panic device", MMIO, outb(portPanic, panicked), Crash},
		{"ud2 without handlers", MMIO, []byte{0x0f, 0x0b}, TripleFault},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t, Config{Transport: tc.transport}, tc.code...)
			if end := m.Run(t.Context()); end.Reason != tc.want || end.Err != nil {
				t.Errorf("Run: %v, want %v", end, tc.want)
			}
		})
	}
}

func TestHarmlessWritesDoNotEndTheMachine(t *testing.T) {
	var code []byte
	for _, w := range []struct {
		port uint16
		v    byte
	}{
		{portPower + offSleep, 0x30},      // SLP_TYP 4
		{portPower + offSleep, 0x14},      // SLP_TYP 5 without SLP_EN
		{portPower + offSleepState, 0x34}, // the wrong register
		{portPower + offReset, 0},
		{portPower + offEvents, 0xff},
		{portPanic, crashSaved}, // a crash kernel takes over
		{0x64, 0xd1},
		{0xcf9, 2},
		{0x70, 1},
		{0xffff, 0},
	} {
		code = append(code, outb(w.port, w.v)[:7]...)
	}
	m := newMachine(t, Config{CPUs: 2}, append(code, spin...)...)
	ends := m.start(t, t.Context())
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
	select {
	case end := <-ends:
		t.Fatal(end)
	default:
	}
	if n := m.Counters()["exit_pio_total"]; n != 10 {
		t.Errorf("%d port exits counted, want 10", n)
	}
}

// start runs the machine; the test ends it.
func (m *Machine) start(t *testing.T, ctx context.Context) <-chan End {
	t.Helper()
	ctx, cancel := context.WithCancelCause(ctx)
	ends := make(chan End, 1)
	done := make(chan struct{})
	go func() { defer close(done); ends <- m.Run(ctx) }()
	t.Cleanup(func() { cancel(errors.New("test over")); <-done })
	return ends
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

func TestTheContextKillsASpinningGuest(t *testing.T) {
	m := newMachine(t, Config{CPUs: 4}, spin...)
	ctx, cancel := context.WithCancelCause(t.Context())
	ends := m.start(t, ctx)
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
	why := errors.New("enough")
	cancel(why)
	if end := <-ends; end.Reason != Killed || !errors.Is(end.Err, why) {
		t.Errorf("Run: %v", end)
	}
	for name, err := range map[string]error{
		"Pause": m.Pause(t.Context()), "Resume": m.Resume(t.Context()), "PowerButton": m.PowerButton(),
	} {
		if !errors.Is(err, ErrEnded) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
	if m.Counters()["exit_intr_total"] == 0 {
		t.Error("no kick counted")
	}
}

func TestPauseStopsAndResumeContinues(t *testing.T) {
	m := newMachine(t, Config{CPUs: 2, Devices: []Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}}}, spin...)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(m.Pause(t.Context())) // before Run: it starts paused
	m.start(t, t.Context())
	eventually(t, "Run has begun", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.entered })
	if n := m.counted(t); n != 0 {
		t.Fatalf("the guest counted to %d while paused", n)
	}
	for range 20 {
		before := m.counted(t)
		ok(m.Resume(t.Context()))
		ok(m.Resume(t.Context()))
		eventually(t, "the guest counts", func() bool { return m.counted(t) != before })
		ok(m.Pause(t.Context()))
		ok(m.Pause(t.Context()))
		at := m.counted(t)
		for range 1000 {
			runtime.Gosched()
		}
		if now := m.counted(t); now != at {
			t.Fatalf("a paused guest counted from %d to %d", at, now)
		}
	}
}

// TestPauseAgainstTheEnd: whatever order they come in, nobody hangs and the
// error is nil or ErrEnded.
func TestPauseAgainstTheEnd(t *testing.T) {
	for range 30 {
		m := newMachine(t, Config{CPUs: 3}, outb(portPower+offSleep, 0x34)...)
		ends := m.start(t, t.Context())
		ended := make(chan struct{})
		round := func() error {
			return errors.Join(m.Pause(t.Context()), m.Resume(t.Context()), m.PowerButton())
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				err := round()
				for n := 1; err == nil; n++ {
					if n == 20 {
						<-ended // on one processor the guest would hardly get to its end
					}
					err = round()
				}
				for line := range strings.SplitSeq(err.Error(), "\n") {
					if line != ErrEnded.Error() {
						t.Errorf("after the end: %v", err)
					}
				}
			})
		}
		end := <-ends
		close(ended)
		if end.Reason != PowerOff {
			t.Fatal(end)
		}
		wg.Wait()
	}
}

// closable is a device that counts how often it is closed.
type closable struct {
	*rng.Device
	closed int
}

func (c *closable) Close() error { c.closed++; return nil }

func TestCloseIsIdempotentAndCloses(t *testing.T) {
	for _, tr := range []Transport{MMIO, PCI} {
		dev := &closable{Device: rng.New()}
		m := newMachine(t, Config{Transport: tr, Devices: []Device{{Device: dev, Args: virtio.Args{ID: "d"}}}}, spin...)
		for range 2 {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		if dev.closed != 1 {
			t.Errorf("%s: device closed %d times", tr, dev.closed)
		}
		if err := m.Pause(t.Context()); !errors.Is(err, ErrEnded) {
			t.Errorf("Pause after Close: %v", err)
		}
		m.Input([]byte("x")) // no serial port: dropped
	}
}

// TestNewLeavesNothingWhereverItFails makes New fail at each of its steps.
func TestNewLeavesNothingWhereverItFails(t *testing.T) {
	testenv.Require(t, testenv.KVM)
	good := func() Config { return Config{MemoryBytes: 16 << 20, Kernel: microKernel(t, spin...)} }
	dir := t.TempDir()
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   error  // wrapped
		says   string // in the message
	}{
		{"configuration", func(c *Config) { c.CPUs = 65 }, ErrConfig, "65 vCPUs"},
		{"kernel missing", func(c *Config) { c.Kernel = filepath.Join(dir, "none") }, os.ErrNotExist, "none"},
		{"kernel bad", func(c *Config) { c.Kernel = "/proc/self/exe" }, boot.ErrKernel, ""},
		{"huge pages", func(c *Config) { c.MemoryBytes, c.HugePages = 254<<30, true }, nil, ""},
		{"device kind", func(c *Config) { c.Devices = append(c.Devices, Device{Kind: "tape"}) }, virtio.ErrArgs, "tape"},
		{"device option", func(c *Config) {
			c.Devices = append(c.Devices, Device{Kind: "blk", Args: virtio.Args{ID: "d", Values: map[string]string{"path": dir + "/none"}}})
		}, os.ErrNotExist, "none"},
		{"two devices of one name", func(c *Config) { c.Devices = append(c.Devices, c.Devices[0], c.Devices[0]) }, nil, "first"},
		{"more devices than pins", func(c *Config) {
			for i := range 20 {
				c.Devices = append(c.Devices, Device{Kind: "rng", Args: virtio.Args{ID: fmt.Sprint("r", i)}})
			}
		}, nil, "use the pci transport"},
		{"initramfs missing", func(c *Config) { c.Initrds = []string{dir + "/none"} }, os.ErrNotExist, "initramfs"},
		{"initramfs is a directory", func(c *Config) { c.Initrds = []string{dir} }, ErrConfig, "initramfs"},
		{"command line", func(c *Config) { c.Cmdline = strings.Repeat("x", 5000) }, boot.ErrCmdline, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			first := &closable{Device: rng.New()}
			c := good()
			c.SerialOut = &bytes.Buffer{}
			c.Devices = []Device{{Kind: "rng", Args: virtio.Args{ID: "first"}}}
			if tc.name != "two devices of one name" {
				c.Devices = []Device{{Device: first, Args: virtio.Args{ID: "first"}}}
			}
			tc.change(&c)
			before := held(t)
			m, err := New(c)
			if m != nil || err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("New: %v, %v; want %v with %q", m, err, tc.want, tc.says)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("a message of several lines: %q", err)
			}
			if after := held(t); !slices.Equal(after, before) {
				t.Errorf("held before: %q\nafter: %q", before, after)
			}
			if tc.name != "two devices of one name" && first.closed == 0 {
				t.Error("the device given was not closed")
			}
		})
	}
}

// held lists the descriptors and mappings that a machine can leave behind.
func held(t *testing.T) (all []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fds {
		to, err := os.Readlink("/proc/self/fd/" + f.Name())
		if err == nil && !strings.HasPrefix(to, "/proc/") && !strings.Contains(to, "[eventpoll]") && !strings.Contains(to, "/dev/urandom") {
			all = append(all, to)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.SplitSeq(string(maps), "\n") {
		if strings.Contains(l, "memfd:") || strings.Contains(l, "kvm") {
			all = append(all, l)
		}
	}
	slices.Sort(all)
	return all
}

func TestPowerRegisters(t *testing.T) {
	var raised, off, reset int
	p := &power{raise: func() error { raised++; return nil }, powerOff: func() { off++ }, reset: func() { reset++ }}
	read := func(off uint64, n int) []byte {
		b := bytes.Repeat([]byte{0xee}, n)
		p.ReadAt(off, b)
		return b
	}
	if err := errors.Join(p.event(1), p.event(2)); err != nil || raised != 2 {
		t.Fatalf("%d edges for two events, %v", raised, err)
	}
	for _, odd := range [][]byte{read(0, 1), read(0, 2), read(0, 8), read(1, 1), read(4, 4), read(5, 1)} {
		if !bytes.Equal(odd, make([]byte, len(odd))) {
			t.Errorf("an odd read returned % x", odd)
		}
	}
	saved, err := state.Save("power", p)
	if err != nil {
		t.Fatal(err)
	}
	p.WriteAt(offEvents, []byte{0, 0, 0, 0}) // ignored
	if got := read(0, 4); !bytes.Equal(got, []byte{3, 0, 0, 0}) {
		t.Errorf("pending % x, want both events", got)
	}
	if got := read(0, 4); !bytes.Equal(got, make([]byte, 4)) {
		t.Errorf("pending % x after they were read", got)
	}
	raised = 0
	if err := state.Load(saved, p); err != nil || raised != 1 {
		t.Errorf("load: %v, %d edges; a pending event needs one", err, raised)
	}
	if got := read(0, 4); got[0] != 3 {
		t.Errorf("loaded events % x", got)
	}
	for v := range 256 {
		p.WriteAt(offSleep, []byte{byte(v)})
		p.WriteAt(offReset, []byte{byte(v)})
	}
	if off != 1 || reset != 1 {
		t.Errorf("%d of 256 values switch off, %d reset; want one each", off, reset)
	}
}

func TestAWatchdogEndsAGuestThatHasStartedIt(t *testing.T) {
	m := newMachine(t, Config{Watchdog: true},
		0xb8, 1, 0, 0, 0, // mov eax, 1
		0xba, 0x14, 0x06, 0, 0, // mov edx, 0x614
		0xef,                   // out dx, eax: one tick
		0xba, 0x10, 0x06, 0, 0, // mov edx, 0x610
		0xef,       // out dx, eax: run
		0xeb, 0xfe, // for ever
	)
	if end := m.Run(t.Context()); end.Reason != WatchdogFired {
		t.Errorf("the machine ended by %v", end)
	}
}
