package ocisystemd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Who the user with a manager of its own is: in every Debian's /etc/passwd.
const (
	userID   = 1
	userName = "daemon"
)

// boot is what becomes systemd: it has the namespaces, and makes the mounts.
const boot = `
mount --make-rprivate / && mount -t proc proc /proc && mount -t tmpfs -o mode=755 tmpfs /run &&
umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
mkdir -p /run/units /run/user/1 && chown daemon:daemon /run/user/1 && chmod 700 /run/user/1 || exit 1
cat >/run/units/test.target <<'UNIT'
[Unit]
DefaultDependencies=no
AllowIsolate=yes
UNIT
cat >/run/units/manager.service <<'UNIT'
[Unit]
DefaultDependencies=no
[Service]
Type=notify
User=daemon
Slice=user-1.slice
Delegate=yes
Environment=HOME=/tmp XDG_RUNTIME_DIR=/run/user/1 SYSTEMD_UNIT_PATH=/run/user/1/systemd/user.control:/run/user/1/systemd/transient:/run/units SYSTEMD_GENERATOR_PATH=/nowhere
ExecStart=/lib/systemd/systemd --user --unit=test.target
UNIT
units=/run/systemd/system.control:/run/systemd/transient:/run/units
exec env -i container=test PATH=/usr/bin:/bin:/usr/sbin:/sbin SYSTEMD_UNIT_PATH=$units SYSTEMD_GENERATOR_PATH=/nowhere \
	/lib/systemd/systemd --system --unit=test.target --log-target=console --log-level=notice --show-status=no
`

// host is a running systemd, as a test sees it.
type host struct {
	t       *testing.T
	pid     int
	group   string // systemd's, in the machine's tree
	program string
	dir     string // bundles, state
	user    bool   // commands are the user's
}

// newHost is one without systemd.
func newHost(t *testing.T) *host {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.CgroupV2, testenv.Busybox, testenv.OCI)
	dir, err := os.MkdirTemp("/tmp", "ocisystemd") //nolint:usetesting // others have to get there
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	// Where a user without privileges gets, too.
	for _, name := range []string{"hvctl-oci", "hvctl-oci-full"} {
		b, err := os.ReadFile(filepath.Join(os.Getenv("HVCTL_BIN"), name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return &host{t: t, dir: dir, group: fmt.Sprintf("/sys/fs/cgroup/ocisystemd%d", os.Getpid()), program: filepath.Join(dir, "hvctl-oci")}
}

// start boots systemd. It ends with the test.
func start(t *testing.T) *host {
	t.Helper()
	testenv.Require(t, testenv.Systemd, testenv.Podman)
	h := newHost(t)
	if err := os.Mkdir(h.group, 0o755); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(h.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := exec.Command("/bin/sh", "-c", boot)
	c.Stdout, c.Stderr = log, log
	into(t, c, h.group)
	c.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	h.pid = c.Process.Pid
	t.Cleanup(func() {
		_ = c.Process.Kill() // and with PID 1 everybody
		_ = c.Wait()
		removeGroups(h.group)
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("systemd says:\n%s", text)
		}
	})
	// Commands come in here, beside systemd's own groups.
	h.eventually("systemd runs", func() bool {
		_, err := os.Stat(filepath.Join(h.group, "init.scope"))
		return err == nil && h.do("systemctl", "is-system-running").out == "running\n"
	})
	return h
}

// in is the host as a subtest sees it.
func (h *host) in(t *testing.T) *host {
	other := *h
	other.t = t
	return &other
}

// into has a command born in a group, which is made if it does not exist.
func into(t *testing.T, c *exec.Cmd, group string) {
	t.Helper()
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	f, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
}

// removeGroups removes a group with all below it.
func removeGroups(group string) {
	entries, _ := os.ReadDir(group)
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(group, e.Name()))
		}
	}
	for range 100 { // its last processes are still ending
		if err := unix.Rmdir(group); !errors.Is(err, unix.EBUSY) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.code, r.out, r.err)
}

// command is one that runs where systemd does, as the user if h is.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	full := []string{"nsenter", "-t", strconv.Itoa(h.pid), "-p", "-m", "-C", "--"}
	group := filepath.Join(h.group, "commands")
	if h.user {
		full = append(full, "setpriv", "--reuid", strconv.Itoa(userID), "--regid", strconv.Itoa(userID), "--clear-groups", "--",
			"env", "XDG_RUNTIME_DIR=/run/user/1", "HOME=/tmp")
		group = filepath.Join(h.group, "user.slice/user-1.slice/manager.service/commands")
	}
	full = append(full, args...)
	c := exec.CommandContext(ctx, full[0], full[1:]...)
	c.Dir = "/"
	into(h.t, c, group)
	if h.user {
		_ = os.Chown(group, userID, userID)
		_ = os.Chown(filepath.Join(group, "cgroup.procs"), userID, userID)
	}
	return c
}

// do runs a command to its end. Output goes through files: what a container
// keeps open must not make this wait.
func (h *host) do(args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := h.command(ctx, args...)
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(h.dir, "output")
		if err != nil {
			h.t.Fatal(err)
		}
		defer os.Remove(f.Name())
		defer f.Close()
		files[i] = f
	}
	c.Stdout, c.Stderr = files[0], files[1]
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		h.t.Fatalf("%v: %v", args, errors.Join(err, ctx.Err()))
	}
	var text [2]string
	for i, f := range files {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			h.t.Fatal(err)
		}
		text[i] = string(b)
	}
	return result{text[0], text[1], c.ProcessState.ExitCode()}
}

// oci runs the runtime.
func (h *host) oci(args ...string) result {
	h.t.Helper()
	return h.do(append([]string{h.program, "--systemd-cgroup", "--root", h.state()}, args...)...)
}

func (h *host) state() string {
	if h.user {
		return "/run/user/1/oci"
	}
	return "/run/oci"
}

// ok is oci that has to work; it returns the output.
func (h *host) ok(args ...string) string {
	h.t.Helper()
	r := h.oci(args...)
	if r.code != 0 {
		h.t.Fatalf("%v: %v", args, r)
	}
	return strings.TrimSpace(r.out)
}

// bundle makes a bundle whose process runs a shell script, in the group path.
func (h *host) bundle(path, script string, res *specs.LinuxResources) (dir string, spec *specs.Spec, save func()) {
	h.t.Helper()
	dir, err := os.MkdirTemp(h.dir, "bundle")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, d := range []string{"bin", "proc", "dev", "tmp", "sys"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		h.t.Fatal(err)
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/bin/busybox"), b, 0o755); err != nil {
		h.t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "echo", "cat", "dd", "tail", "mknod", "mv"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "rootfs/bin", name)); err != nil {
			h.t.Fatal(err)
		}
	}
	spec = &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/bin/sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{
			CgroupsPath: path, Resources: res,
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.CgroupNamespace}},
		},
	}
	if h.user {
		one := []specs.LinuxIDMapping{{HostID: userID, Size: 1}}
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = one, one
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	save = func() {
		h.t.Helper()
		b, err := json.Marshal(spec)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644)
		}
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		if err == nil && h.user { // mount points are made there
			err = exec.Command("chown", "-R", userName, dir).Run()
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
	save()
	return dir, spec, save
}

// systemctl asks the manager that h's commands are for.
func (h *host) systemctl(args ...string) result {
	h.t.Helper()
	if h.user {
		args = append([]string{"--user"}, args...)
	}
	return h.do(append([]string{"systemctl"}, args...)...)
}

// properties are some of a unit's.
func (h *host) properties(unit string, names ...string) map[string]string {
	h.t.Helper()
	r := h.systemctl("show", "-p", strings.Join(names, ","), unit)
	if r.code != 0 {
		h.t.Fatalf("%s: %v", unit, r)
	}
	out := map[string]string{}
	for line := range strings.Lines(r.out) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		out[k] = v
	}
	return out
}

// has checks properties of a unit, and control files of its group: what has a
// dot in its name. Names and values take turns.
func (h *host) has(unit string, want ...string) {
	h.t.Helper()
	names := []string{"ControlGroup"}
	for i := 0; i < len(want); i += 2 {
		if !strings.Contains(want[i], ".") {
			names = append(names, want[i])
		}
	}
	have := h.properties(unit, names...)
	for i := 0; i < len(want); i += 2 {
		got := have[want[i]]
		if strings.Contains(want[i], ".") {
			b, err := os.ReadFile(filepath.Join(h.group, have["ControlGroup"], want[i]))
			if err != nil {
				h.t.Error(err)
			}
			got = strings.TrimSpace(string(b))
		}
		if got != want[i+1] {
			h.t.Errorf("%s: %s is %q, want %q", unit, want[i], got, want[i+1])
		}
	}
}

// gone checks that nothing is left of a unit: not in systemd, and no group.
func (h *host) gone(unit string) {
	h.t.Helper()
	h.eventually(unit+" is gone", func() bool {
		p := h.properties(unit, "LoadState", "ActiveState")
		return p["LoadState"] == "not-found" && p["ActiveState"] == "inactive"
	})
	_ = filepath.WalkDir(h.group, func(path string, _ os.DirEntry, _ error) error {
		if filepath.Base(path) == unit {
			h.t.Errorf("%s is left", path)
		}
		return nil
	})
}

// eventually waits for what comes without notice.
func (h *host) eventually(what string, is func() bool) {
	h.t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// without is what a command says outside of systemd.
func without(program string, args ...string) (string, error) {
	var out bytes.Buffer
	c := exec.Command(program, args...)
	c.Stderr = &out
	err := c.Run()
	return out.String(), err
}
