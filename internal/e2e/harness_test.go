package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
)

// host is one state root; what a test leaves in it is the test's fault.
type host struct {
	t     *testing.T
	root  string
	bin   string
	store string // of images and kernels; "": the tests'
	kind  kind

	as      *syscall.Credential // nil: root
	home    string              // of that user
	through []string            // what commands are run by; nil: nothing
	group   *os.File            // the cgroup that its commands run in; nil: ours
}

// kind is a backend, and what run is told to have it.
type kind struct {
	name  string
	flags []string
}

var (
	vm        = kind{"vm", []string{"--backend", "vm", "--kernel", fast}}
	ctr       = kind{"container", []string{"--backend", "container"}}
	bothKinds = []kind{vm, ctr}
)

// onBoth is a test whose outcome must not depend on the backend.
func onBoth(t *testing.T, test func(t *testing.T, h *host)) {
	t.Helper()
	for _, k := range bothKinds {
		t.Run(k.name, func(t *testing.T) {
			test(t, newHostOf(t, k))
		})
	}
}

// newHost is for tests of VMs.
func newHost(t *testing.T) *host {
	t.Helper()
	return newHostOf(t, vm)
}

// newHostOf needs everything that tests of a backend need, and checks at the
// end that nothing is left behind.
func newHostOf(t *testing.T, k kind) *host {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Images)
	if k.name == vm.name {
		testenv.Require(t, testenv.Linux)
	}
	root, err := os.MkdirTemp("/run", "hv") //nolint:usetesting // sockets below it need a short path
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, root: root, bin: filepath.Join(os.Getenv("HVCTL_BIN"), "hvctl"), kind: k}
	before := h.leftovers()
	t.Cleanup(func() {
		h.hvctl("rm", "-f", "--all")
		after := h.leftovers()
		for deadline := time.Now().Add(10 * time.Second); after != before && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond) // an owner that has answered may take a moment to end
			after = h.leftovers()
		}
		if after != before {
			t.Errorf("left behind; before:\n%s\nafter:\n%s", before, after)
		}
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return h
}

// leftovers lists what an instance could leave on the host.
func (h *host) leftovers() string {
	var b strings.Builder
	entries, err := os.ReadDir(h.root)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && e.Name() != "net" {
			fmt.Fprintln(&b, "state:", e.Name())
		}
	}
	ifs, err := net.Interfaces()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, i := range ifs {
		fmt.Fprintln(&b, "interface:", i.Name)
	}
	for _, pattern := range []string{"/sys/block/loop*/loop/backing_file", "/run/netns/*", "/dev/shm/*", "/sys/fs/cgroup/hvctl/*-*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, f := range found {
			fmt.Fprintln(&b, f)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		h.t.Fatal(err)
	}
	b.Write(mounts)
	if out, err := exec.Command("nft", "list", "tables").Output(); err == nil {
		b.Write(out)
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, p := range procs {
		c, err := os.ReadFile(p + "/cmdline")
		if err == nil && (bytes.HasPrefix(c, []byte("hvctl-net")) || bytes.Contains(c, []byte("hvctl")) && bytes.Contains(c, []byte(h.root))) && !zombie(p) {
			fmt.Fprintf(&b, "process: %q\n", c)
		}
	}
	return b.String()
}

// zombie tells whether a process has ended and only waits to be reaped, which
// is somebody else's to do.
func zombie(proc string) bool {
	b, err := os.ReadFile(filepath.Join(proc, "stat"))
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && strings.HasPrefix(state, "Z")
}

// in is the host as seen by a subtest.
func (h *host) in(t *testing.T) *host {
	sub := *h
	sub.t = t
	return &sub
}

// run is the command line that runs an instance of the host's kind.
func (h *host) run(args ...string) []string {
	return slices.Concat([]string{"run"}, h.kind.flags, args)
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

// hvctl runs the command line and returns how it ended.
func (h *host) hvctl(args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	c := h.command(ctx, args...)
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	begin := time.Now()
	err := c.Run()
	h.t.Logf("%.1fs: hvctl %.100q", time.Since(begin).Seconds(), args) // where the time of a slow test goes
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return result{out.String(), stderr.String(), c.ProcessState.ExitCode()}
}

func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append(append(slices.Clone(h.through), h.bin), args...)
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env = append(os.Environ(), "HVCTL_ROOT="+h.root, "HVCTL_STORE="+cmp.Or(h.store, testenv.TestStore()))
	h.userCommand(c)
	return c
}

// ok runs the command line and fails the test unless it exits with 0.
func (h *host) ok(args ...string) string {
	h.t.Helper()
	r := h.hvctl(args...)
	if r.code != 0 {
		h.t.Fatalf("hvctl %s: exit %d\nstdout: %s\nstderr: %s\n%s", strings.Join(args, " "), r.code, r.out, r.err, h.consoles())
	}
	return r.out
}

// consoles returns the end of every guest's console, for messages.
func (h *host) consoles() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(h.root, "*", "*.log"))
	for _, f := range files {
		if p, err := os.ReadFile(f); err == nil && len(p) > 0 {
			fmt.Fprintf(&b, "%s:\n%s\n", f, p[max(0, len(p)-2000):])
		}
	}
	return b.String()
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(4 * time.Minute) // a loaded test host writes 256 MiB in more than two
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen in time: %s", what)
		}
		time.Sleep(50 * time.Millisecond) // between two looks at another machine
	}
}
