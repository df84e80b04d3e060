package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestWithoutRoot has a user without privileges run containers: with its own
// ID mapped, without limits.
func TestWithoutRoot(t *testing.T) {
	c := newCLI(t)
	const nobody = 65534
	dir := t.TempDir()
	for at := dir; at != os.TempDir() && at != "/"; at = filepath.Dir(at) { // the user has to get there
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "hvctl-oci")
	b, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.config(func(s *specs.Spec) {
		makeRootless(s)
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: nobody, Size: 1}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		s.Hooks = &specs.Hooks{ // in the container, whose groups nobody may leave
			CreateContainer: []specs.Hook{{Path: "/bin/true"}}, StartContainer: []specs.Hook{{Path: "/bin/true"}},
		}
	})
	for _, d := range []string{dir, c.bundle, filepath.Join(c.bundle, "rootfs")} {
		if err := os.Chown(d, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	c.root = filepath.Join(dir, "state")
	as := func(args ...string) *exec.Cmd {
		cmd := exec.Command(program, c.args(args)...)
		cmd.Env, cmd.Dir = append(os.Environ(), asProgram+"=1"), c.bundle
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		return cmd
	}
	create := as("run", "-d", c.prefix)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	create.Stderr = log
	if err := create.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("%v: %s", err, text)
	}
	if out, errOut, code := c.finish(as("exec", c.prefix, "id")); code != 0 || out != "uid=0 gid=0\n" {
		t.Errorf("exec: %d, %q, %s", code, out, errOut)
	}
	if _, errOut, code := c.finish(as("delete", "--force", c.prefix)); code != 0 {
		t.Errorf("delete: %s", errOut)
	}
	c.nothingLeft()

	c.config(func(s *specs.Spec) {
		makeRootless(s)
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
	})
	if _, errOut, code := c.finish(as("create", c.prefix)); code != 1 || !strings.Contains(errOut, "linux.uidMappings: without root only one's own ID (65534)") {
		t.Errorf("mapping of others' IDs: %d, %s", code, errOut)
	}
	c.nothingLeft()
}
