package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The test program is its own helper: HVCTL_CGROUP_TEST says as what.
func TestMain(m *testing.M) {
	switch os.Getenv("HVCTL_CGROUP_TEST") {
	case "":
		os.Exit(m.Run())
	case "block": // says that it is there and waits for the end of its input
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "memory": // waits for a line, then uses memory until it is killed
		fmt.Println("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		var all [][]byte
		for range 1024 {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(i)
			}
			all = append(all, b)
		}
		runtime.KeepAlive(all)
	case "fork": // waits for a line, then starts children until it cannot
		fmt.Println("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		for n := 0; ; n++ {
			c := exec.Command("/proc/self/exe")
			c.Env = []string{"HVCTL_CGROUP_TEST=block"}
			_, _ = c.StdinPipe()
			if err := c.Start(); err != nil {
				fmt.Println("children", n)
				break
			}
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "device": // waits for a line, then tries to open what the arguments say
		fmt.Println("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		for _, dev := range os.Args[1:] {
			fd, err := unix.Open(dev, unix.O_RDWR, 0)
			fmt.Println(dev, err)
			if err == nil {
				unix.Close(fd)
			}
		}
	case "create": // tries to make the groups that the arguments name
		for _, path := range os.Args[1:] {
			g, err := Create(Options{Path: path, Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(5))}}})
			fmt.Println(errors.Is(err, ErrPermission), g != nil, err)
		}
	case "spin": // waits for a line, then burns processor time
		fmt.Println("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		for i := 0; ; i++ {
			spun = i
		}
	}
}

var spun int

// helper is a child process.
type helper struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start runs the test program as kind, in g when it is given.
func start(t *testing.T, g *Group, kind string, args ...string) *helper {
	t.Helper()
	c := exec.Command("/proc/self/exe", args...)
	c.Env = []string{"HVCTL_CGROUP_TEST=" + kind}
	c.Stderr = os.Stderr
	h := &helper{Cmd: c}
	var err error
	if h.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.out = bufio.NewReader(out)
	if g != nil {
		f, err := g.File()
		if err != nil {
			t.Fatal(err)
		}
		if f != nil {
			defer f.Close()
			c.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
		}
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if g != nil && g.NeedsAdd() {
		if err := g.Add(c.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	if l := h.line(t); l != "ready" {
		t.Fatalf("helper says %q", l)
	}
	return h
}

func (h *helper) line(t *testing.T) string {
	t.Helper()
	l, err := h.out.ReadString('\n')
	if err != nil {
		t.Fatalf("helper: %v", err)
	}
	return strings.TrimSpace(l)
}

func (h *helper) goOn(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(h.in, "go\n"); err != nil {
		t.Fatal(err)
	}
}

var names atomic.Int64

// testPath is a path that no other test, and no other run, has.
func testPath() string {
	return fmt.Sprintf("/hvctl-test-%d-%d", os.Getpid(), names.Add(1))
}

// newGroup makes a group that the test's end removes.
func newGroup(t *testing.T, o Options) *Group {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Cgroup)
	if o.Path == "" {
		o.Path = testPath()
	}
	g, err := Create(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Delete(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		if err := g.Delete(background); err != nil {
			t.Error(err)
		}
	})
	return g
}
