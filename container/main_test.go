package container_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// host is a runtime with a state root of its own, and what tests need of it.
type host struct {
	t *testing.T
	*container.Runtime
	bundle string
	log    *bytes.Buffer
}

// newHost makes a runtime and a bundle with busybox.
func newHost(t *testing.T) *host {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Cgroup, testenv.Busybox)
	groups, err := container.HostCgroups()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, log: new(bytes.Buffer), bundle: filepath.Join(testDir(t), "bundle")}
	h.Runtime = &container.Runtime{Root: filepath.Join(testDir(t), "state"), Cgroups: groups, Log: slog.New(slog.NewTextHandler(h.log, nil))}
	bin := filepath.Join(h.bundle, "rootfs", "bin")
	for _, dir := range []string{bin, "etc", "proc", "sys", "dev", "tmp", "mnt"} {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(h.bundle, "rootfs", dir)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, busybox, filepath.Join(bin, "busybox"))
	for name := range strings.FieldsSeq("sh cat ls id sleep true false echo mkdir stat hostname readlink tty stty umask grep test kill mount touch nproc dd head") {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// testDir is a temporary folder that users of a user namespace can reach.
func testDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for at := dir; at != os.TempDir() && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			break // not ours
		}
	}
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// spec is a usual configuration that runs a shell script.
func (h *host) spec(script string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.NetworkNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.MountNamespace},
			{Type: specs.CgroupNamespace},
		}, CgroupsPath: "/hvctl-test/" + h.id()},
	}
}

// id is a container's name that no other test uses.
func (h *host) id() string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' || r == '#' || r == ',' {
			return '-'
		}
		return r
	}, fmt.Sprintf("%s-%d", h.t.Name(), os.Getpid()))
}

// create makes the container; the test removes it at its end.
func (h *host) create(s *specs.Spec, change ...func(*container.CreateOptions)) (*container.Proc, error) {
	o := container.CreateOptions{ID: h.id(), Bundle: h.bundle, Spec: s}
	for _, c := range change {
		c(&o)
	}
	p, err := h.Create(h.t.Context(), o)
	if err == nil {
		h.t.Cleanup(func() {
			if err := h.Delete(context.WithoutCancel(h.t.Context()), h.id(), true); err != nil {
				h.t.Error(err)
			}
			_, _ = unix.Wait4(p.PID, nil, 0, nil) // unless the test did
			p.FD.Close()
		})
	}
	return p, err
}

func (h *host) mustCreate(s *specs.Spec, change ...func(*container.CreateOptions)) *container.Proc {
	h.t.Helper()
	p, err := h.create(s, change...)
	if err != nil {
		h.t.Fatalf("create: %v", err)
	}
	return p
}

// output runs a container to its end and returns what it wrote, and its code.
func (h *host) output(s *specs.Spec, change ...func(*container.CreateOptions)) (string, int) {
	h.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Close()
	change = append(change, func(o *container.CreateOptions) {
		if o.Console == nil {
			o.Stdio[1], o.Stdio[2] = w, w
		}
	})
	p := h.mustCreate(s, change...)
	w.Close()
	if err := h.Start(h.t.Context(), h.id()); err != nil {
		h.t.Fatalf("start: %v", err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(b)), wait(h.t, p)
}

// wait is the exit code of a child, or 128 and its signal.
func wait(t *testing.T, p *container.Proc) int {
	t.Helper()
	var st unix.WaitStatus
	for {
		_, err := unix.Wait4(p.PID, &st, 0, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			t.Fatalf("wait for %d: %v", p.PID, err)
		}
	}
	if st.Signaled() {
		return 128 + int(st.Signal())
	}
	return st.ExitStatus()
}

// execute runs a further process to its end.
func (h *host) execute(p *specs.Process, change ...func(*container.ExecOptions)) (string, int, error) {
	h.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Close()
	o := container.ExecOptions{Process: p, Stdio: [3]*os.File{nil, w, w}}
	for _, c := range change {
		c(&o)
	}
	proc, err := h.Exec(h.t.Context(), h.id(), o)
	w.Close()
	if err != nil {
		return "", 0, err
	}
	defer proc.FD.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(b)), wait(h.t, proc), nil
}

func shell(script string) *specs.Process {
	return &specs.Process{Args: []string{"sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}}
}

// until waits for a condition that comes without notice.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
