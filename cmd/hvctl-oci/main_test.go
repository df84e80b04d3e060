package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// asProgram makes the test program behave as hvctl-oci.
const asProgram = "HVCTL_OCI_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(false, os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// cli calls the program with a state root of its own.
type cli struct {
	t            *testing.T
	root, bundle string
	prefix       string // of this test's containers
}

func newCLI(t *testing.T) *cli {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Cgroup, testenv.Busybox)
	c := &cli{t: t, root: filepath.Join(t.TempDir(), "state"), bundle: t.TempDir(), prefix: fmt.Sprintf("oci-test-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)}
	bin := filepath.Join(c.bundle, "rootfs", "bin")
	for _, dir := range []string{bin, filepath.Join(c.bundle, "rootfs", "proc"), filepath.Join(c.bundle, "rootfs", "dev")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(bin+"/busybox", b, 0o755)
	}
	for name := range strings.FieldsSeq("sh cat echo sleep true tty id kill env") {
		err = errors.Join(err, os.Symlink("busybox", bin+"/"+name))
	}
	if err != nil {
		t.Fatal(err)
	}
	c.config(func(s *specs.Spec) {})
	t.Cleanup(c.removeAll)
	return c
}

// config writes the bundle's config.json.
func (c *cli) config(change func(s *specs.Spec)) {
	c.t.Helper()
	s := exampleSpec()
	s.Process.Terminal, s.Process.Args = false, []string{"sleep", "1000"}
	s.Process.Env = []string{"PATH=/bin"}
	s.Linux.CgroupsPath = "/hvctl-test/" + c.prefix
	change(s)
	b, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(c.bundle, "config.json"), b, 0o644)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cli) args(args []string) []string { return append([]string{"--root", c.root}, args...) }

// command is a call of the program that was not made yet.
func (c *cli) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], c.args(args)...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Dir = c.bundle
	return cmd
}

// run returns the output, standard error and the exit code.
func (c *cli) run(args ...string) (out, errOut string, code int) {
	c.t.Helper()
	return c.finish(c.command(args...))
}

func (c *cli) finish(cmd *exec.Cmd) (out, errOut string, code int) {
	c.t.Helper()
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	cmd.WaitDelay = 5 * time.Second // a container that was left has the pipes
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			c.t.Fatalf("%v: %v: %s", cmd.Args, err, e.String())
		}
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// detached is for commands that leave a container running: it gets no pipe of
// ours.
func (c *cli) detached(args ...string) error {
	cmd := c.command(args...)
	log, err := os.CreateTemp(c.t.TempDir(), "log")
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Run(); err != nil {
		b, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%v: %w: %s", args, err, b)
	}
	return nil
}

func (c *cli) must(args ...string) string {
	c.t.Helper()
	out, errOut, code := c.run(args...)
	if code != 0 {
		c.t.Fatalf("%v: exit code %d: %s", args, code, errOut)
	}
	return out
}

func (c *cli) removeAll() {
	entries, _ := os.ReadDir(c.root)
	for _, e := range entries {
		if _, errOut, code := c.run("delete", "--force", e.Name()); code != 0 {
			c.t.Errorf("delete --force %s: %s", e.Name(), errOut)
		}
	}
}

// nothingLeft looks for what containers could leave.
func (c *cli) nothingLeft() {
	c.t.Helper()
	if list, err := os.ReadDir(c.root); err == nil && len(list) > 0 {
		c.t.Errorf("left in the state root: %v", list)
	}
	left, _ := filepath.Glob("/sys/fs/cgroup/*/hvctl-test/" + c.prefix + "*")
	more, _ := filepath.Glob("/sys/fs/cgroup/hvctl-test/" + c.prefix + "*")
	if left = append(left, more...); len(left) > 0 {
		c.t.Errorf("left cgroups: %v", left)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), c.bundle) {
		c.t.Errorf("the bundle is still mounted somewhere, %v", err)
	}
}
