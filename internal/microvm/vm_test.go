package microvm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
)

func newVM(t *testing.T, change func(*workload.Config)) *VM {
	t.Helper()
	c := &workload.Config{Spec: &specs.Spec{Process: &specs.Process{}}}
	c.Res.MemoryBytes = 64 << 20
	if change != nil {
		change(c)
	}
	if c.Rootfs.ImagePath == "" {
		c.Rootfs.ImagePath = filepath.Join(t.TempDir(), "root.erofs")
		if err := os.WriteFile(c.Rootfs.ImagePath, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return New(c, t.TempDir(), slog.New(slog.DiscardHandler))
}

func TestBeforeStartEverythingIsRefusedPolitely(t *testing.T) {
	v := newVM(t, nil)
	ctx := t.Context()
	_, execErr := v.Exec(ctx, &specs.Process{}, workload.Stdio{})
	_, statsErr := v.Stats(ctx)
	for name, err := range map[string]error{
		"Shutdown": v.Shutdown(ctx), "Kill": v.Kill(ctx), "Pause": v.Pause(ctx), "Resume": v.Resume(ctx),
		"Exec": execErr, "Stats": statsErr,
	} {
		if !errors.Is(err, workload.ErrNotRunning) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if m := v.Inspect(); m["counters"] != nil || m["vcpus"] != 1 {
		t.Errorf("Inspect: %v", m)
	}
	if ip, ports := v.NetworkStatus(); ip != "" || ports != nil {
		t.Errorf("NetworkStatus: %q, %v", ip, ports)
	}
	for range 2 {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAStartThatFailsIsOneLineAndLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*workload.Config)
		says   string
	}{
		{"no kernel file", func(c *workload.Config) { c.VM.Kernel = "/none/vmlinuz" }, "/none/vmlinuz"},
		{"not a kernel", func(c *workload.Config) { c.VM.Kernel = "/proc/self/exe" }, ""},
		{"image gone", func(c *workload.Config) { c.Rootfs.ImagePath, c.VM.Kernel = "/none/root.erofs", "/none/vmlinuz" }, "/none/"},
		{"host network", func(c *workload.Config) { c.Net.Mode = workload.NetHost }, "none, bridge, user, cni and tap"},
	} {
		for _, raw := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				v := newVM(t, func(c *workload.Config) { c.VM.Raw = raw; tc.change(c) })
				before := fds(t)
				p, err := v.Start(t.Context(), workload.Stdio{Out: &strings.Builder{}})
				if p != nil || err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("Start: %v, %q", p, err)
				}
				if err := v.Close(); err != nil {
					t.Error(err)
				}
				if after := fds(t); after != before {
					t.Errorf("%d descriptors before, %d after", before, after)
				}
				if err := v.Kill(t.Context()); !errors.Is(err, workload.ErrNotRunning) {
					t.Errorf("Kill: %v", err)
				}
			})
		}
	}
}

func fds(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range e {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && !strings.Contains(to, "[event") {
			n++
		}
	}
	return n
}

func TestExplainSaysWhyInOneLineAndQuotesTheConsoleWhenItHelps(t *testing.T) {
	const said = "booting\r\n\r\nKernel panic - not syncing: \x1b[31mno\x1b[0m\a init\r\n"
	const quoted = "; its console ends with:\nbooting\nKernel panic - not syncing: .[31mno.[0m. init"
	for _, tc := range []struct {
		name    string
		end     *machine.End // nil: it runs still
		err     error
		console string
		want    string
	}{
		{"panic", &machine.End{Reason: machine.Crash}, errEnded, said, "the guest's kernel crashed before its workload started" + quoted},
		{"panic without driver", &machine.End{Reason: machine.Reboot}, errEnded, said, "the guest's kernel crashed before its workload started" + quoted},
		{"triple fault at once", &machine.End{Reason: machine.TripleFault, CPU: 3}, errEnded, "", "the guest's kernel crashed (triple fault on CPU 3) before its workload started; its console is empty: is it a kernel for this machine?"},
		{"poweroff", &machine.End{Reason: machine.PowerOff}, errEnded, said, "the guest powered off before its workload started" + quoted},
		{"killed", &machine.End{Reason: machine.Killed, Err: errKilled}, errEnded, said, "the VM was killed before its workload started"},
		{"failed", &machine.End{Reason: machine.Failed, Err: errors.Join(errors.New("a"), errors.New("b"))}, errEnded, said, "the VM could not go on: a; b before its workload started"},
		{"silent", nil, errSilent, said, errSilent.Error() + quoted},
		{"cancelled", nil, context.Canceled, said, "context canceled"},
		{"not found", &machine.End{Reason: machine.PowerOff}, &workload.StartError{Code: 127, Err: errors.New("sh: not found")}, said, "sh: not found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := newVM(t, nil)
			var err error
			if v.console, err = newConsole(filepath.Join(v.dir, "console.log"), false); err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			_, _ = v.console.Write([]byte(tc.console))
			g := &guest{ended: make(chan struct{})}
			if tc.end != nil {
				g.end = *tc.end
				close(g.ended)
			}
			if got := v.explain(g, tc.err).Error(); got != tc.want {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

func TestLostProcess(t *testing.T) {
	for end, want := range map[machine.Reason]string{
		machine.Killed:   "",
		machine.PowerOff: "the guest powered off before the process ended",
		machine.Reboot:   "the guest's kernel crashed before the process ended; its console ends with:\noops",
	} {
		if got := lostProcess(machine.End{Reason: end}, "oops\n"); got != want {
			t.Errorf("%v: %q, want %q", end, got, want)
		}
	}
}

// TestAVMThatDoesNotStopIsGivenUp: the machine never ends, as when a disk's host
// I/O does not return. Kill, Wait and Close are bounded all the same.
func TestAVMThatDoesNotStopIsGivenUp(t *testing.T) {
	v := newVM(t, nil)
	v.endTimeout = time.Millisecond
	g := v.newGuest(nil)
	v.live.Store(g)
	if err := v.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	e, err := (&rawProcess{v, g}).Wait(ctx)
	if err != nil || e.Code != 137 || !strings.Contains(e.Err, "did not stop in time") {
		t.Errorf("%+v, %v", e, err)
	}
	closed := make(chan error, 1)
	go func() { closed <- v.Close() }()
	select {
	case err := <-closed:
		if !errors.Is(err, errStuck) {
			t.Errorf("Close: %v", err)
		}
	case <-ctx.Done():
		t.Error("Close hangs")
	}
	if err := v.bounded(func() error { select {} }); !errors.Is(err, errStuck) {
		t.Errorf("bounded: %v", err)
	}
}

// TestAConsoleThatCannotBeRotatedStaysBounded: say, because somebody removed the
// state directory; the open file would grow unseen.
func TestAConsoleThatCannotBeRotatedStaysBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := newConsole(filepath.Join(dir, "console.log"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("y", 4095) + "\n")
	for range 3 * consoleMax / len(line) {
		_, _ = c.Write(line)
		if c.f == nil {
			return // it keeps the tail only
		}
		if st, err := c.f.Stat(); err != nil || st.Size() > consoleMax {
			t.Fatalf("the file has %d bytes (%v), at most %d are allowed", st.Size(), err, consoleMax)
		}
	}
}

func TestConsoleFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	c, err := newConsole(filepath.Join(dir, "console.log"), false)
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("y", 4095) + "\n")
	for range 5 * consoleMax / len(line) {
		if n, err := c.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	_, _ = c.Write([]byte("the end"))
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	_, _ = c.Write([]byte(", and after")) // to the tail only
	if tail := c.Tail(); len(tail) > tailMax || !strings.HasSuffix(tail, "the end, and after") {
		t.Errorf("tail of %d bytes ends with %q", len(tail), tail[len(tail)-20:])
	}
	files, _ := filepath.Glob(dir + "/*")
	if len(files) != 2 {
		t.Errorf("files %q", files)
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || st.Size() > consoleMax || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st, err)
		}
	}
}
