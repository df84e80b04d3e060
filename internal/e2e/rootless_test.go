package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// The user who runs the tests of this file, and the group that may use KVM.
const (
	plainUser = 4242
	kvmGroup  = 4343
)

// newUser is a host of a user without privileges: with a home, a runtime folder,
// a store and the programs, and in group kvm.
func newUser(t *testing.T, k kind) *host {
	t.Helper()
	h := newHostOf(t, k).in(t)
	h.as = &syscall.Credential{Uid: plainUser, Gid: plainUser, Groups: []uint32{kvmGroup}}
	home, err := os.MkdirTemp("/run", "user") //nolint:usetesting // others are not for that user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	h.root = filepath.Join(home, "run", "hvctl")
	bin := filepath.Join(home, "bin")
	for _, dir := range []string{bin, filepath.Join(home, "run"), filepath.Join(home, "data")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The programs may lie where only root gets.
	if err := unix.Mount(os.Getenv("HVCTL_BIN"), bin, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bin, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	busyboxTree(t, filepath.Join(home, "image"))
	copyTo(t, filepath.Join(testenv.TestKernels(), fast, "vmlinuz"), filepath.Join(home, "vmlinuz"), 0o644)
	if err := filepath.Walk(home, func(path string, _ os.FileInfo, err error) error {
		switch {
		case err != nil:
			return err
		case path == bin:
			return filepath.SkipDir
		}
		return os.Lchown(path, plainUser, plainUser)
	}); err != nil {
		t.Fatal(err)
	}
	h.home, h.bin = home, filepath.Join(bin, "hvctl")
	allowKVM(t)
	t.Cleanup(func() {
		h.ok("rm", "-f", "--all")
		eventually(t, "the user's processes have ended", func() bool { return len(processesOf(plainUser)) == 0 })
	})
	h.ok("import", "--cmd", "sh", filepath.Join(home, "image"), "busybox")
	if k.name == vm.name {
		h.ok("kernel", "import", "--name", fast, filepath.Join(home, "vmlinuz"))
	}
	return h
}

// busyboxTree makes a small root file system.
func busyboxTree(t *testing.T, dir string) {
	t.Helper()
	testenv.Require(t, testenv.Busybox)
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	copyTo(t, "/bin/busybox", filepath.Join(bin, "busybox"), 0o755)
	for _, name := range []string{"sh", "cat", "id", "ls", "stat", "wget", "nc", "httpd", "sleep", "echo", "touch", "mkdir", "true", "mknod", "mount", "kill", "grep", "md5sum"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// processesOf lists the processes of a user, in every namespace.
func processesOf(uid uint32) (found []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil && st.Uid == uid && !zombie(p) {
			found = append(found, p)
		}
	}
	return found
}

func copyTo(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// allowKVM lets the group use /dev/kvm, as distributions do.
func allowKVM(t *testing.T) {
	t.Helper()
	st, err := os.Stat("/dev/kvm")
	if err == nil {
		err = errors.Join(os.Chown("/dev/kvm", 0, kvmGroup), os.Chmod("/dev/kvm", 0o660))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(os.Chown("/dev/kvm", 0, 0), os.Chmod("/dev/kvm", st.Mode().Perm())); err != nil {
			t.Error(err)
		}
	})
}

// forPlainUser is a test of both backends as a user without privileges.
func forPlainUser(t *testing.T, test func(t *testing.T, h *host)) {
	t.Helper()
	for _, k := range bothKinds {
		t.Run(k.name, func(t *testing.T) { test(t, newUser(t, k)) })
	}
}

// TestPlainUserRuns: images, exit codes, exec, a volume, and the default network,
// which is the user-mode one.
func TestPlainUserRuns(t *testing.T) { forPlainUser(t, plainUserRuns) }

func plainUserRuns(t *testing.T, h *host) {
	if r := h.hvctl(h.run("--rm", "busybox", "sh", "-c", "id -u; id -g; exit 7")...); r.code != 7 || r.out != "0\n0\n" {
		t.Errorf("%+v", r)
	}
	port := serveHost(t)
	if err := os.WriteFile(filepath.Join(h.home, "data", "in"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := h.ok(h.run("--rm", "--network", "user:host=on", "-v", h.home+"/data:/data", "busybox", "sh", "-c",
		fmt.Sprintf("cat /data/in; echo from inside >/data/out; stat -c %%u /data/out; wget -q -O - --post-data=hello http://10.0.2.2:%d/", port))...)
	if out != "from the host\n0\nxxxxx" {
		t.Errorf("got %q", out)
	}
	var st unix.Stat_t
	b, err := os.ReadFile(filepath.Join(h.home, "data", "out"))
	if err == nil {
		err = unix.Stat(filepath.Join(h.home, "data", "out"), &st)
	}
	if err != nil || string(b) != "from inside\n" || st.Uid != plainUser {
		t.Errorf("the file of the instance: %q of user %d, %v", b, st.Uid, err)
	}
}

// TestPlainUserPublishes a web server, looks at it by every verb, and kills its
// owner.
func TestPlainUserPublishes(t *testing.T) { forPlainUser(t, plainUserPublishes) }

func plainUserPublishes(t *testing.T, h *host) {
	h.ok(h.run("-d", "--name", "web", "-p", "127.0.0.1::80", "busybox", "sh", "-c", "mkdir /www && echo page >/www/index.html && exec httpd -f -h /www")...)
	addr := fmt.Sprintf("127.0.0.1:%d", h.port("web"))
	eventually(t, "the page is served", func() bool {
		r, err := (&http.Client{Timeout: 5 * time.Second}).Get("http://" + addr + "/")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return err == nil && string(b) == "page\n"
	})
	status, err := os.ReadFile("/proc/" + h.inspect("web", "{{.Inspect.networkPid}}") + "/status")
	if err != nil || !strings.Contains(string(status), "CapPrm:\t0000000000000000\n") || !strings.Contains(string(status), "NoNewPrivs:\t1\n") {
		t.Errorf("the network's process has privileges: %v\n%s", err, status)
	}
	if out := h.ok("ps"); !strings.Contains(out, "web") || !strings.Contains(out, "->80/tcp") {
		t.Errorf("ps: %q", out)
	}
	if out := h.ok("exec", "web", "cat", "/www/index.html"); out != "page\n" {
		t.Errorf("exec: %q", out)
	}
	h.ok("stats", "--no-stream", "--json", "web")
	if h.kind.name == ctr.name { // that takes a cgroup
		if r := h.hvctl("pause", "web"); r.code == 0 || !strings.Contains(r.err, "--cgroup-parent") {
			t.Errorf("pause without a cgroup: %+v", r)
		}
	} else {
		h.ok("pause", "web")
		h.ok("resume", "web")
	}
	if out := h.ok("top", "web"); !strings.Contains(out, "httpd") {
		t.Errorf("top: %q", out)
	}
	if r := h.hvctl(h.run("--rm", "-p", "127.0.0.1:99:80", "busybox", "true")...); r.code != 125 || !strings.Contains(r.err, "ip_unprivileged_port_start") {
		t.Errorf("a port below 1024: %+v", r)
	}
	h.kill(t, "web")
	eventually(t, "the port is free", func() bool {
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			ln.Close()
		}
		return err == nil
	})
	h.ok("rm", "-f", "web")
}

// TestPlainUserIsToldWhatNeedsRoot by one line that says what to do.
func TestPlainUserIsToldWhatNeedsRoot(t *testing.T) {
	h := newUser(t, vm)
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"bridge", []string{"--network", "bridge"}, "choose --network user"},
		{"processor weight", []string{"--cpu-weight", "50"}, "cgroup"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := h.in(t).hvctl(h.run(append(append([]string{"--rm"}, tc.args...), "busybox", "true")...)...)
			if r.code != 125 || !strings.Contains(r.err, tc.want) || strings.Count(r.err, "\n") != 1 {
				t.Errorf("%+v lacks %q", r, tc.want)
			}
		})
	}
}

// withRanges gives the user a name and ranges of IDs while the test runs.
func withRanges(t *testing.T) {
	t.Helper()
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("plain:x:%d:%d::/nonexistent:/bin/sh\n", plainUser, plainUser),
		"/etc/subuid": fmt.Sprintf("plain:%d:65536\n", 500000),
		"/etc/subgid": fmt.Sprintf("%d:%d:65536\n", plainUser, 500000),
	} {
		before, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(before, line...), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.WriteFile(file, before, 0o644); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPlainUsersContainerHasUsers: with one ID there is root alone, with ranges
// there are others.
func TestPlainUsersContainerHasUsers(t *testing.T) {
	testenv.Require(t, testenv.NewUIDMap)
	h := newUser(t, ctr)
	if r := h.hvctl(h.run("--rm", "--user", "33:44", "busybox", "id")...); r.code != 125 || !strings.Contains(r.err, "/etc/subuid") || strings.Count(r.err, "\n") != 1 {
		t.Errorf("a user that is not mapped: %+v", r)
	}
	if r := h.hvctl(h.run("--rm", "busybox", "cat", "/proc/self/setgroups")...); r.out != "deny\n" {
		t.Errorf("with one ID: %+v", r)
	}
	withRanges(t)
	out := h.ok(h.run("--rm", "--user", "33:44", "-v", h.home+"/data:/data", "busybox", "sh", "-c", "id; cat /proc/self/setgroups; touch /data/x 2>/dev/null || echo no right")...)
	if out != "uid=33 gid=44\nallow\nno right\n" {
		t.Errorf("with ranges: %q", out)
	}
	h.ok(h.run("--rm", "--user", "0:44", "-v", h.home+"/data:/data", "busybox", "touch", "/data/x")...)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(h.home, "data", "x"), &st); err != nil || st.Uid != plainUser || st.Gid != 500000+43 {
		t.Errorf("the host sees user %d and group %d, %v", st.Uid, st.Gid, err)
	}
}

// TestPlainUsersContainerHasNoMoreThanTheUser: what the user cannot do, root in the
// container cannot.
func TestPlainUsersContainerHasNoMoreThanTheUser(t *testing.T) {
	h := newUser(t, ctr)
	secret := filepath.Join(h.home, "secret")
	if err := os.WriteFile(secret, []byte("s"), 0o600); err != nil { // root's
		t.Fatal(err)
	}
	out := h.ok(h.run("--rm", "--cap-add", "ALL", "-v", secret+":/secret", "busybox", "sh", "-c", `
		cat /secret 2>/dev/null && echo read
		mknod /dev/mem1 c 1 1 2>/dev/null && echo device
		mount -t tmpfs none /proc/sys 2>/dev/null; echo 1 2>/dev/null >/proc/sys/kernel/sysrq && echo sysctl
		kill -0 2 2>/dev/null && echo others
		ls /sys/class/net | grep -v -e lo -e eth0
		echo done`)...)
	if out != "done\n" {
		t.Errorf("got %q", out)
	}
}

// TestPlainUsersLimits: refused with what to do, and kept in a group that was
// delegated.
func TestPlainUsersLimits(t *testing.T) {
	testenv.Require(t, testenv.CgroupV2)
	forPlainUser(t, func(t *testing.T, h *host) {
		if h.kind.name == ctr.name {
			if r := h.hvctl(h.run("--rm", "--memory", "64M", "busybox", "true")...); r.code != 125 || !strings.Contains(r.err, "--cgroup-parent") {
				t.Errorf("without a group: %+v", r)
			}
		}
		const group = "/sys/fs/cgroup/delegated"
		shell := filepath.Join(group, "shell")
		if err := os.MkdirAll(shell, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = os.Remove(shell), os.Remove(group) })
		for _, f := range []string{"/sys/fs/cgroup", group} {
			if err := os.WriteFile(filepath.Join(f, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "shell", "shell/cgroup.procs"} {
			if err := os.Chown(filepath.Join(group, f), plainUser, plainUser); err != nil {
				t.Fatal(err)
			}
		}
		d, err := os.Open(shell)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		h.group = d
		defer func() { h.group = nil }()
		h.ok(h.run("-d", "--name", "x", "--memory", "128M", "--cpu-weight", "50", "--cgroup-parent", "/delegated/hv", "busybox", "sleep", "1000")...)
		path := filepath.Join("/sys/fs/cgroup", strings.TrimSpace(h.ok("inspect", "--format", "{{.Config.GroupPath}}", "x")))
		if b, err := os.ReadFile(filepath.Join(path, "cpu.weight")); err != nil || string(b) != "50\n" {
			t.Errorf("%q, %v", b, err)
		}
		if h.kind.name == ctr.name {
			if b, err := os.ReadFile(filepath.Join(path, "memory.max")); err != nil || string(b) != "134217728\n" {
				t.Errorf("%q, %v", b, err)
			}
		}
		h.ok("pause", "x")
		h.ok("resume", "x")
		h.ok("rm", "-f", "x")
		if h.kind.name == ctr.name { // what can be frozen can be started afresh elsewhere
			h.ok(h.run("-d", "--name", "y", "--cgroup-parent", "/delegated/hv", "--network", "none", "busybox", "sh", "-c", "echo said >> /began; sleep 1000")...)
			h.ok("exec", "y", "sh", "-c", "mkdir /new; echo kept > /new/f; touch /new/.g")
			at := "unix:" + filepath.Join(h.home, "run", "sock")
			done := h.receive("z", at, "--mode", "restart")
			h.ok("migrate", "send", "y", "--to", at, "--mode", "restart")
			done()
			eventually(t, "it has begun again", func() bool { return h.hvctl("exec", "z", "cat", "/began", "/new/f").out == "said\nsaid\nkept\n" })
			h.ok("rm", "-f", "y", "z")
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the group is left: %v", err)
		}
		_ = os.Remove(filepath.Join(group, "hv"))
	})
}

// userCommand makes c the user's, when h is one's.
func (h *host) userCommand(c *exec.Cmd) {
	if h.as == nil {
		return
	}
	c.Dir = h.home
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + h.home, "XDG_RUNTIME_DIR=" + filepath.Join(h.home, "run")}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: h.as}
	if h.group != nil {
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(h.group.Fd())
	}
}
