package machine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/images/kernel"
	"github.com/hvctl/hvctl/internal/initrd"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/virtio"
)

// TestMain is the tests' start on the host, and /init in their guests.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 && fileExists("/hvctl") {
		guestMain()
	}
	os.Exit(m.Run())
}

// guestTimeout bounds a guest's whole life. An emulated host takes half a
// minute for a distribution's kernel.
const guestTimeout = 2 * time.Minute

// linux says which guest to boot.
type linux struct {
	kernel  string   // below testenv.TestKernels; "" is minimal
	mode    string   // what its init does
	modules []string // for a kernel that does not have them built in
	cmdline string
	Config
}

// guest is a booted one.
type guest struct {
	*Machine
	t      *testing.T
	log    *slog.Logger
	cancel context.CancelFunc // ends Run
	ended  chan struct{}      // closed at the end of Run
	how    End                // valid then

	mu    sync.Mutex
	all   bytes.Buffer
	wrote chan struct{} // has a token when there is more
}

// Write collects the serial output.
func (g *guest) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all.Write(p)
	select {
	case g.wrote <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (g *guest) console() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all.String()
}

// said returns every value the guest gave to key.
func (g *guest) said(key string) (all []string) {
	for _, l := range strings.SplitAfter(g.console(), "\n") {
		if v, ok := strings.CutPrefix(l, "HV "+key+" "); ok && strings.HasSuffix(v, "\n") {
			all = append(all, strings.TrimSpace(v))
		}
	}
	return all
}

// wait waits until the guest has said key.
func (g *guest) wait(key, value string) {
	g.t.Helper()
	t := time.NewTimer(guestTimeout)
	defer t.Stop()
	for !slices.Contains(g.said(key), value) {
		select {
		case <-g.wrote:
		case <-g.ended:
			if !slices.Contains(g.said(key), value) {
				g.t.Fatalf("the guest ended (%v) without having said %s %s", g.how, key, value)
			}
		case <-t.C:
			g.t.Fatalf("the guest never said %s %s; %s", key, value, g.where())
		}
	}
}

// where tells what each vCPU is at, for a guest that hangs.
func (g *guest) where() string {
	var b strings.Builder
	for _, c := range g.cpus {
		err := c.Do(func(c *kvm.VCPU) error {
			r, err := c.Regs()
			mp, _ := c.MPState()
			fmt.Fprintf(&b, "vCPU %d: rip %#x rflags %#x rsp %#x, MP state %v; ", c.ID(), r.RIP, r.RFLAGS, r.RSP, mp)
			return err
		})
		if err != nil {
			fmt.Fprintf(&b, "vCPU %d: %v; ", c.Index(), err)
		}
	}
	return b.String()
}

// end waits for the machine's end.
func (g *guest) end() End {
	g.t.Helper()
	t := time.NewTimer(guestTimeout)
	defer t.Stop()
	select {
	case <-g.ended:
	case <-t.C:
		g.t.Fatalf("the guest does not end; %s", g.where())
	}
	if errs := g.said("error"); len(errs) > 0 {
		g.t.Errorf("the guest reports: %q", errs)
	}
	for _, l := range g.said("trouble") {
		g.t.Errorf("the guest's kernel complains: %s", l)
	}
	return g.how
}

// kernelFile is the file to boot, unpacked where there is a choice.
func kernelFile(name string) string {
	dir := filepath.Join(testenv.TestKernels(), name)
	if f := filepath.Join(dir, "vmlinux"); fileExists(f) {
		return f
	}
	return filepath.Join(dir, "vmlinuz")
}

func fileExists(f string) bool { _, err := os.Stat(f); return err == nil }

// ramdisk makes an initramfs with this program as init.
func ramdisk(t *testing.T, name string, modules []string) string {
	t.Helper()
	dir := filepath.Join(testenv.TestKernels(), name)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := initrd.Options{Hvinit: exe}
	if fileExists(filepath.Join(dir, "modules", "modules.dep")) {
		mods, err := kernel.Modules(&kernel.Kernel{Name: name, ModulesDir: filepath.Join(dir, "modules")}, modules)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mods {
			o.Modules = append(o.Modules, initrd.Module{Name: m.Name, Path: m.Path})
		}
	}
	path := filepath.Join(t.TempDir(), "initrd")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := initrd.Build(f, o); err != nil {
		t.Fatal(err)
	}
	return path
}

// bootLinux starts a guest.
func bootLinux(t *testing.T, l linux) *guest {
	t.Helper()
	testenv.Require(t, testenv.Linux)
	if l.kernel == "" {
		l.kernel = "minimal"
	}
	c := l.Config
	if c.MemoryBytes == 0 {
		c.MemoryBytes = 256 << 20
	}
	g := &guest{t: t, wrote: make(chan struct{}, 1), log: slog.New(slog.NewTextHandler(testLog{t}, nil))}
	c.Kernel, c.KernelCache = kernelFile(l.kernel), filepath.Join(os.TempDir(), "hvctl-test-kernels")
	c.Initrds = []string{ramdisk(t, l.kernel, l.modules)}
	c.Cmdline = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check random.trust_cpu=on hv.test=" + l.mode + " " + l.cmdline
	c.SerialOut = g
	c.Log = g.log
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	g.run(m)
	t.Cleanup(func() {
		g.cancel()
		<-g.ended
		t.Logf("%v; counters %v", time.Since(start).Round(time.Millisecond), g.Counters())
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("console:\n%s", g.console())
		}
	})
	return g
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// stock is what Debian's kernels have as modules.
var stock = []string{"virtio_mmio", "virtio_pci", "virtio_rng", "virtio_blk"}

func TestGuestEndsAreToldApart(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	for _, tc := range []struct {
		name string
		linux
		want Reason
	}{
		{"poweroff", linux{mode: "off"}, PowerOff},
		{"reboot", linux{mode: "reboot"}, Reboot},
		{"reboot through the keyboard controller", linux{mode: "reboot", cmdline: "reboot=k"}, Reboot},
		{"reboot by triple fault", linux{mode: "reboot", cmdline: "reboot=t"}, TripleFault},
		{"panic", linux{mode: "panic"}, Crash},
		{"panic without the driver", linux{mode: "panic", kernel: "cloud"}, Reboot},
		{"panic with Debian's driver", linux{mode: "panic", kernel: "cloud", modules: []string{"pvpanic_mmio"}}, Crash},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := bootLinux(t, tc.linux)
			if end := g.end(); end.Reason != tc.want {
				t.Errorf("Run: %v, want %v", end, tc.want)
			}
			if g.Counters()["exit_pio_total"] == 0 {
				t.Error("no port exit counted")
			}
		})
	}
}

func TestGuestSeesItsMachine(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	for _, tc := range []struct {
		kernel    string
		transport Transport
		cpus      int
		mib       uint64
	}{
		{"minimal", MMIO, 1, 128},
		{"minimal", PCI, 4, 5 << 10},
		{"minimal", MMIO, 16, 512},
		{"cloud", MMIO, 2, 256},
		{"generic", PCI, 1, 512},
	} {
		t.Run(fmt.Sprintf("%s %s %d CPUs %d MiB", tc.kernel, tc.transport, tc.cpus, tc.mib), func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(disk, append([]byte(diskMark), make([]byte, 4<<20-len(diskMark))...), 0o600); err != nil {
				t.Fatal(err)
			}
			g := bootLinux(t, linux{kernel: tc.kernel, mode: "view", modules: stock, Config: Config{
				CPUs: tc.cpus, MemoryBytes: tc.mib << 20, Transport: tc.transport,
				Devices: []Device{
					{Kind: "rng", Args: virtio.Args{ID: "rng0"}},
					{Kind: "blk", Args: virtio.Args{ID: "disk0", Values: map[string]string{"path": disk, "serial": "d0"}}},
				},
			}})
			if end := g.end(); end.Reason != PowerOff {
				t.Fatalf("Run: %v", end)
			}
			expect := func(key string, want ...string) {
				t.Helper()
				if got := g.said(key); !slices.Equal(got, want) {
					t.Errorf("%s: the guest says %q, want %q", key, got, want)
				}
			}
			cpus := "0"
			if tc.cpus > 1 {
				cpus = fmt.Sprintf("0-%d", tc.cpus-1)
			}
			expect("cpus", cpus)
			expect("device", string(tc.transport)+" 0x0004 virtio_rng", string(tc.transport)+" 0x0002 virtio_blk")
			expect("rng", "true")
			expect("disk", fmt.Sprint(4<<20/512)+" d0")
			var kib uint64
			if m := g.said("memory"); len(m) != 1 {
				t.Errorf("memory %q", m)
			} else if _, err := fmt.Sscan(m[0], &kib); err != nil || kib > tc.mib<<10 || kib < tc.mib<<10*7/10 {
				t.Errorf("the guest has %d KiB of %d MiB, %v", kib, tc.mib, err)
			}
			if high := g.said("highpages"); len(high) != 1 || (high[0] != "0") != (tc.mib > 3<<10) {
				t.Errorf("%q pages above 4 GiB with %d MiB", high, tc.mib)
			}
			b, err := os.ReadFile(disk)
			if err != nil {
				t.Fatal(err)
			}
			if want := bytes.Repeat([]byte(diskReply), 10000); !bytes.Equal(b[replyAt:][:len(want)], want) {
				t.Error("what the guest wrote and flushed is not in the file")
			}
			if c := g.Counters(); c["rng0.entropy_bytes_total"] == 0 {
				t.Errorf("counters %v", c)
			}
			t.Logf("clock source %q", g.said("clock"))
		})
	}
}

func TestGuestHearsTheHost(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	g := bootLinux(t, linux{mode: "talk", Config: Config{CPUs: 2}})
	g.wait("ready", "echo")
	g.Input([]byte("type something\n"))
	g.wait("echo", "TYPE SOMETHING")
	g.wait("ready", "button")
	if err := g.PowerButton(); err != nil {
		t.Fatal(err)
	}
	g.wait("key", "116")
	g.wait("ready", "pause")
	if err := g.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := g.Counters()
	const paused = 2 * time.Second
	time.Sleep(paused) // the length of the pause is what is tested
	if after := g.Counters(); after["exit_pio_total"] != before["exit_pio_total"] || after["exit_mmio_total"] != before["exit_mmio_total"] {
		t.Errorf("exits during the pause: before %v, after %v", before, after)
	}
	if err := g.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if end := g.end(); end.Reason != PowerOff {
		t.Errorf("Run: %v", end)
	}
	var ms int64
	if got := g.said("gap"); len(got) != 1 {
		t.Errorf("gap %q", got)
	} else if _, err := fmt.Sscan(got[0], &ms); err != nil || ms < 1000 || ms > 10_000 {
		t.Errorf("the guest's clock jumped %d ms over a pause of %v", ms, paused)
	}
	if ged := g.said("ged"); len(ged) != 1 {
		t.Errorf("interrupts of the event device: %q", ged)
	} else {
		t.Log(ged[0])
	}
}

var _ io.Writer = (*guest)(nil)
