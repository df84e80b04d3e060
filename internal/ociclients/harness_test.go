package ociclients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/critest"
	"github.com/hvctl/hvctl/internal/testenv"
)

// image is what containers are made of.
const image = critest.Image

// runtimeProgram is the runtime under test.
func runtimeProgram() string {
	if p := os.Getenv("HVCTL_OCI"); p != "" {
		return p
	}
	return filepath.Join(os.Getenv("HVCTL_BIN"), "hvctl-oci")
}

// require skips t where a client cannot run, and returns a folder for its
// state, with a short name for the sockets in it.
func require(t *testing.T, client testenv.Need) string {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.CgroupV2, testenv.Busybox, testenv.OCI, client)
	dir, err := os.MkdirTemp("/run", "oc") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	return dir
}

// result is how a command ended.
type result struct {
	args     []string
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit %d\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, r.out, r.err)
}

// run runs a command to its end.
func run(t *testing.T, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env = append(os.Environ(), env...)
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	c.WaitDelay = time.Second
	err := c.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil {
		t.Errorf("%s: no end within two minutes", strings.Join(args, " "))
	} else if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return result{args, out.String(), stderr.String(), c.ProcessState.ExitCode()}
}

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within a minute: %s", what)
		}
		time.Sleep(50 * time.Millisecond) // between looks, not to let time pass
	}
}

// is fails the test unless the command's output is want.
func (r result) is(t *testing.T, want string) {
	t.Helper()
	if r.code != 0 || strings.TrimSpace(r.out) != want {
		t.Errorf("want %q; %v", want, r)
	}
}

// exits fails the test unless the command ended with that status.
func (r result) exits(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Errorf("want exit %d; %v", code, r)
	}
	return r
}

// says fails the test unless the command's output is want, whatever its status.
func (r result) says(t *testing.T, want string) {
	t.Helper()
	if strings.TrimSpace(r.out) != want {
		t.Errorf("want %q; %v", want, r)
	}
}
