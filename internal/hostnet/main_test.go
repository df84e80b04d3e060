package hostnet

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
)

// childEnv marks a process that a test started from its own binary.
const childEnv = "HOSTNET_CHILD"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == VerbKeep {
		if err := Keep(nil, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if mode := os.Getenv(childEnv); strings.HasPrefix(mode, "holder ") {
		holder(strings.TrimPrefix(mode, "holder "))
	}
	os.Exit(m.Run())
}

// inNetns runs the calling test once more in a process with a network
// namespace of its own (loopback up) and reports false in the process that
// only waits for it: the test's body belongs behind it.
func inNetns(t *testing.T, needs ...testenv.Need) bool {
	t.Helper()
	testenv.Require(t, append([]testenv.Need{testenv.Root}, needs...)...)
	if os.Getenv(childEnv) == t.Name() {
		mustRun(t, "loopback", setLinkUp("lo"))
		return true
	}
	c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	c.Env = append(os.Environ(), childEnv+"="+t.Name())
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := c.CombinedOutput()
	t.Logf("in a fresh network namespace:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatal("the test did not run there")
	}
	return false
}

func mustRun(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// eventually waits for cond with a deadline.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond)
	}
}

// openFDs counts this process's descriptors.
func openFDs(t testing.TB) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	mustRun(t, "count descriptors", err)
	return len(es)
}

// holder attaches and stays until it is killed or its standard input ends. arg is
// "ROOT ID IP PORT": with a port to publish it has a keeper.
func holder(arg string) {
	f := strings.Fields(arg)
	o := Options{Root: f[0], ID: f[1]}
	if len(f) > 2 && f[2] != "-" {
		o.IP = addr(f[2])
	}
	if len(f) > 3 {
		port, _ := strconv.ParseUint(f[3], 10, 16)
		o.Keeper, o.Publish = keeperHere(), []Port{{HostPort: uint16(port), Port: 80, Protocol: "tcp"}}
	}
	a, err := Attach(nil2ctx(), o)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("attached", a.IP, a.TapName)
	_, _ = io.Copy(io.Discard, os.Stdin) // select {} is a deadlock where nothing else waits, and ends the process
	runtime.KeepAlive(a)                 // a collected attachment closes its tap
}
