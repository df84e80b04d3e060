package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/supervisor"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/internal/workload/workloadtest"
	"golang.org/x/sys/unix"
)

// The test binary plays the parts of hvctl, with the fake backend, and of its
// owner processes.
const roleEnv = "HVCTL_TEST_ROLE"

// noRaceSleep keeps the race detector from sleeping a second at every exit.
const noRaceSleep = "GORACE=atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "cli":
		p := &program{
			backends:   []backendEntry{{"fake", newFakeBackend}},
			openImages: images.Open, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		}
		os.Exit(p.run(os.Args))
	case "owner":
		if err := supervisor.Run(context.Background(), os.Args[1], workloadtest.NewRuntime); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeBackend runs workloads as processes of the host.
type fakeBackend struct{}

func newFakeBackend(backendEnv) (workload.Backend, error) { return fakeBackend{}, nil }

func (fakeBackend) Name() string                                    { return "fake" }
func (fakeBackend) Prepare(context.Context, *workload.Config) error { return nil }
func (fakeBackend) Command() ([]string, error) {
	return []string{"/usr/bin/env", roleEnv + "=owner", noRaceSleep, os.Args[0]}, nil
}

// world is a state root and an image store of a test's own.
type world struct {
	t           *testing.T
	root, store string
}

// sharedStore has the one image all tests run; it is read-only.
var sharedStore = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hvctl-store-")
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{{Name: "bin/", Mode: 0o755, Typeflag: tar.TypeDir}, {Name: "bin/x", Mode: 0o755, Typeflag: tar.TypeReg}} {
		if err := w.WriteHeader(&h); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	src := filepath.Join(dir, "rootfs.tar")
	if err := os.WriteFile(src, b.Bytes(), 0o600); err != nil {
		return "", err
	}
	s, err := images.Open(filepath.Join(dir, "store"))
	if err != nil {
		return "", err
	}
	o := images.ImportOptions{}
	o.Config.Cmd = []string{"/bin/echo", "from the image"}
	o.Config.Env = []string{"IMG=1", "PATH=/usr/bin:/bin"}
	_, err = s.Import(context.Background(), src, "host", o)
	return s.Dir(), err
})

func newWorld(t *testing.T) *world {
	t.Helper()
	store, err := sharedStore()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, root: filepath.Join(t.TempDir(), "r"), store: store}
	t.Cleanup(func() { w.hv("rm", "-af").run() })
	return w
}

// call is one invocation of hvctl.
type call struct {
	w     *world
	cmd   *exec.Cmd
	out   bytes.Buffer
	err   bytes.Buffer
	timer *time.Timer
}

// hv prepares an invocation; a call that hangs is killed after a minute.
func (w *world) hv(args ...string) *call {
	c := &call{w: w, cmd: exec.Command(os.Args[0], append([]string{"--root", w.root, "--store", w.store}, args...)...)}
	c.cmd.Env = append(os.Environ(), roleEnv+"=cli", "HVCTL_BACKEND=", noRaceSleep)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	return c
}

func (c *call) stdin(s string) *call { c.cmd.Stdin = strings.NewReader(s); return c }

func (c *call) start() *call {
	c.w.t.Helper()
	if err := c.cmd.Start(); err != nil {
		c.w.t.Fatal(err)
	}
	c.timer = time.AfterFunc(time.Minute, func() { _ = c.cmd.Process.Kill() })
	return c
}

func (c *call) wait() int {
	c.w.t.Helper()
	_ = c.cmd.Wait() // the code says it
	if !c.timer.Stop() {
		c.w.t.Errorf("%q hung; stdout %q, stderr %q", c.cmd.Args[5:], c.out.String(), c.err.String())
	}
	return c.cmd.ProcessState.ExitCode()
}

func (c *call) run() int { c.w.t.Helper(); return c.start().wait() }

// must runs and wants exit code 0; it returns what was printed.
func (w *world) must(args ...string) string {
	w.t.Helper()
	c := w.hv(args...)
	if code := c.run(); code != 0 {
		w.t.Fatalf("hvctl %q: exit code %d, stderr %q", args, code, c.err.String())
	}
	return c.out.String()
}

// fails runs and wants this exit code and a message with all of these texts,
// in one line.
func (w *world) fails(code int, texts []string, args ...string) {
	w.t.Helper()
	c := w.hv(args...)
	got := c.run()
	msg := c.err.String()
	if got != code {
		w.t.Errorf("hvctl %q: exit code %d, want %d; stderr %q", args, got, code, msg)
	}
	if !strings.HasPrefix(msg, "hvctl: ") || strings.Count(msg, "\n") != 1 {
		w.t.Errorf("hvctl %q: want one line from hvctl, got %q", args, msg)
	}
	for _, text := range texts {
		if !strings.Contains(msg, text) {
			w.t.Errorf("hvctl %q: message %q lacks %q", args, msg, text)
		}
	}
}

// eventually waits for a condition nobody can be asked to announce.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) status(ref string) string {
	w.t.Helper()
	return strings.TrimSpace(w.must("inspect", "-f", "{{.State.Status}}", ref))
}

// ownerPID is the process ID of ref's owner.
func (w *world) ownerPID(ref string) string {
	w.t.Helper()
	return strings.TrimSpace(w.must("inspect", "-f", "{{.State.PID}}", ref))
}

// lines gives standard output line by line while the call runs. Call it
// before start.
func (c *call) lines() <-chan string {
	c.w.t.Helper()
	c.cmd.Stdout = nil
	r, err := c.cmd.StdoutPipe()
	if err != nil {
		c.w.t.Fatal(err)
	}
	ch := make(chan string, 100)
	go func() {
		defer close(ch)
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			ch <- sc.Text()
		}
	}()
	return ch
}

// pieces reads a text at once or byte by byte.
type pieces struct {
	s     string
	whole bool
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.s == "" {
		return 0, io.EOF
	}
	n := 1
	if p.whole {
		n = len(p.s)
	}
	n = copy(b, p.s[:n])
	p.s = p.s[n:]
	return n, nil
}

func (w *world) kill9(pid string) {
	w.t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil || n < 2 {
		w.t.Fatalf("owner process %q", pid)
	}
	if err := unix.Kill(n, unix.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
}
