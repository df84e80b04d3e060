package container_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/criu"
	"github.com/hvctl/hvctl/internal/criu/swrk"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// savingHost is a host whose CRIU works.
func savingHost(t *testing.T) *host {
	t.Helper()
	testenv.Require(t, testenv.CRIU)
	h := newHost(t)
	tool, err := swrk.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.CRIU = tool
	return h
}

// counting is a container that prints ascending numbers.
type counting struct {
	p   *container.Proc
	out *bufio.Reader
}

const count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"

// next is a number that it prints.
func (c *counting) next(t *testing.T) int {
	t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("its output: %q, %v", line, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (h *host) counting(s *specs.Spec) *counting {
	h.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { r.Close() })
	c := &counting{out: bufio.NewReader(r)}
	c.p = h.mustCreate(s, func(o *container.CreateOptions) { o.Stdio[1], o.Stdio[2] = w, w })
	w.Close()
	if err := h.Start(h.t.Context(), h.id()); err != nil {
		h.t.Fatal(err)
	}
	return c
}

// restore makes the container again; the test removes it at its end.
func (h *host) restore(s *specs.Spec, images string) (*counting, error) {
	h.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { r.Close() })
	defer w.Close()
	o := container.RestoreOptions{CRIUOptions: container.CRIUOptions{Images: images}}
	o.ID, o.Bundle, o.Spec, o.Stdio = h.id(), h.bundle, s, [3]*os.File{nil, w, w}
	p, err := h.Restore(h.t.Context(), o)
	if err != nil {
		return nil, err
	}
	h.t.Cleanup(func() {
		if err := h.Delete(context.WithoutCancel(h.t.Context()), h.id(), true); err != nil {
			h.t.Error(err)
		}
		_, _ = unix.Wait4(p.PID, nil, 0, nil)
		p.FD.Close()
	})
	return &counting{p, bufio.NewReader(r)}, nil
}

// masked has what containers of engines have, too.
func masked(s *specs.Spec) *specs.Spec {
	s.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/scsi"}
	s.Linux.ReadonlyPaths = []string{"/proc/sys", "/proc/bus"}
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}},
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
	return s
}

func TestCheckpointAndRestore(t *testing.T) { savedAndRestored(t) }

// TestCheckpointAndRestoreOnCgroupV1 is the same where each controller has a
// hierarchy of its own.
func TestCheckpointAndRestoreOnCgroupV1(t *testing.T) {
	testenv.Require(t, testenv.CgroupV1)
	savedAndRestored(t)
}

func savedAndRestored(t *testing.T) {
	h := savingHost(t)
	dir := t.TempDir()
	volume := filepath.Join(testDir(t), "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	s := masked(h.spec(count))
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: volume, Options: []string{"bind", "ro"}})
	s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(17))}}
	c := h.counting(s)
	for c.next(t) < 5 {
	}
	save := func(name string, change func(*container.CheckpointOptions)) {
		t.Helper()
		o := container.CheckpointOptions{CRIUOptions: container.CRIUOptions{Images: filepath.Join(dir, name)}}
		change(&o)
		if err := h.Checkpoint(t.Context(), h.id(), o); err != nil {
			t.Fatal(err)
		}
	}
	save("first", func(o *container.CheckpointOptions) { o.PreDump = true })
	h.wantStatus(container.Running)
	save("second", func(o *container.CheckpointOptions) { o.PreDump, o.Parent = true, "../first" })
	save("beside", func(o *container.CheckpointOptions) { o.LeaveRunning = true })
	h.wantStatus(container.Running)
	save("last", func(o *container.CheckpointOptions) { o.Parent = "../second" })
	wait(t, c.p)
	h.wantStatus(container.Stopped)
	rest, err := io.ReadAll(c.out)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Fields(string(rest))
	last, err := strconv.Atoi(said[len(said)-1])
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(t.Context(), h.id(), false); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()

	if c, err = h.restore(s, filepath.Join(dir, "last")); err != nil {
		t.Fatal(err)
	}
	h.wantStatus(container.Running)
	if n := c.next(t); n != last+1 {
		t.Errorf("it goes on with %d after %d", n, last)
	}
	if pids, err := h.Procs(h.id()); err != nil || !slices.Contains(pids, c.p.PID) {
		t.Errorf("its group has %v, %v", pids, err)
	}
	g, err := h.Cgroups.Open(s.Linux.CgroupsPath)
	if err != nil {
		t.Fatal(err)
	}
	for controller, dir := range g.Paths() {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || !slices.Contains(strings.Fields(string(b)), strconv.Itoa(c.p.PID)) {
			t.Errorf("%s (%s) has %q without %d, %v", dir, controller, b, c.p.PID, err)
		}
	}
	if st, err := g.Stats(); err != nil || st.PIDs.Limit != 17 {
		t.Errorf("its limit is %v, %v", st.PIDs.Limit, err)
	}
	out, code, err := h.execute(shell("cat /proc/self/cgroup /proc/kcore; hostname; touch /mnt/x || echo read-only; touch /proc/sys/x || echo so is that"))
	if err != nil || !strings.Contains(out, ":/\n") || strings.Count(out, "\n") < 2 || !strings.Contains(out, "read-only") || !strings.Contains(out, "so is that") {
		t.Errorf("exec in it: %q, %d, %v", out, code, err)
	}
	if err := h.Kill(t.Context(), h.id(), unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, c.p); code != 128+9 {
		t.Errorf("it ended with %d", code)
	}
}

// TestCheckpointKeepsATerminal: its other end is handed over again.
func TestCheckpointKeepsATerminal(t *testing.T) {
	h := savingHost(t)
	s := h.spec("while read x; do echo got $x; done")
	s.Process.Terminal = true
	theirs, receive := console(t)
	p := h.mustCreate(s, func(o *container.CreateOptions) { o.Console = theirs })
	master := receive()
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	say := func(master *os.File, what string) {
		t.Helper()
		if _, err := master.WriteString(what + "\n"); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(master)
		for {
			line, err := in.ReadString('\n')
			if strings.TrimSpace(line) == "got "+what {
				return
			}
			if err != nil {
				t.Fatalf("%q, %v", line, err)
			}
		}
	}
	say(master, "one")
	images := filepath.Join(t.TempDir(), "images")
	if err := h.Checkpoint(t.Context(), h.id(), container.CheckpointOptions{CRIUOptions: container.CRIUOptions{Images: images}}); err != nil {
		t.Fatal(err)
	}
	wait(t, p)
	master.Close()
	if err := h.Delete(t.Context(), h.id(), true); err != nil {
		t.Fatal(err)
	}
	theirs, receive = console(t)
	o := container.RestoreOptions{CRIUOptions: container.CRIUOptions{Images: images}}
	o.ID, o.Bundle, o.Spec, o.Console = h.id(), h.bundle, s, theirs
	p, err := h.Restore(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.FD.Close()
	master = receive()
	defer master.Close()
	say(master, "two")
	if err := h.Kill(t.Context(), h.id(), unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	wait(t, p)
}

// TestRestoreThatFailsLeavesNothing: images that are none, or lie.
func TestRestoreThatFailsLeavesNothing(t *testing.T) {
	h := savingHost(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte(`["pipe:[1]","pipe:[1]","pipe:[1]"]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func(dir string) error{
		"empty folder":      func(string) error { return nil },
		"descriptors alone": func(dir string) error { return os.WriteFile(dir+"/descriptors.json", []byte(`["","",""]`), 0o600) },
		"many descriptors":  func(dir string) error { return os.WriteFile(dir+"/descriptors.json", []byte(`["","","",""]`), 0o600) },
		"not JSON":          func(dir string) error { return os.WriteFile(dir+"/descriptors.json", []byte(`[`), 0o600) },
		"a link":            func(dir string) error { return os.Symlink(victim, dir+"/descriptors.json") },
		"a pipe":            func(dir string) error { return unix.Mkfifo(dir+"/descriptors.json", 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := h.restore(h.spec("true"), dir); err == nil {
				t.Fatal("it was restored")
			} else if !strings.Contains(err.Error(), dir) {
				t.Errorf("%v does not name the folder", err)
			}
			h.nothingLeft()
		})
	}
}

// TestRestoreMakesMountPointsInside: the root file system may have changed in
// between, and is hostile.
func TestRestoreMakesMountPointsInside(t *testing.T) {
	h := savingHost(t)
	s := h.spec(count)
	volume := testDir(t)
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt/a/b", Source: volume, Options: []string{"bind"}})
	c := h.counting(s)
	c.next(t)
	images := filepath.Join(t.TempDir(), "images")
	if err := h.Checkpoint(t.Context(), h.id(), container.CheckpointOptions{CRIUOptions: container.CRIUOptions{Images: images}}); err != nil {
		t.Fatal(err)
	}
	wait(t, c.p)
	if err := h.Delete(t.Context(), h.id(), false); err != nil {
		t.Fatal(err)
	}
	victim, mnt := t.TempDir(), filepath.Join(h.bundle, "rootfs", "mnt")
	if err := errors.Join(os.RemoveAll(mnt), os.Symlink(victim, mnt)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.restore(s, images); err == nil {
		t.Log("restored, inside of the root")
	}
	if list, err := os.ReadDir(victim); err != nil || len(list) > 0 {
		t.Errorf("outside of the root: %v, %v", list, err)
	}
}

// TestCheckpointRefuses what it could not bring back, before anything is
// written.
func TestCheckpointRefuses(t *testing.T) {
	h := newHost(t)
	h.CRIU = noDriver{}
	h.mustCreate(h.spec("sleep 100"))
	try := func() error {
		return h.Checkpoint(t.Context(), h.id(), container.CheckpointOptions{CRIUOptions: container.CRIUOptions{Images: filepath.Join(t.TempDir(), "i")}})
	}
	if err := try(); !errors.Is(err, container.ErrState) {
		t.Errorf("of a created container: %v", err)
	}
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	if err := try(); !errors.Is(err, criu.ErrMissing) {
		t.Errorf("without CRIU: %v", err)
	}
	o := container.RestoreOptions{CRIUOptions: container.CRIUOptions{Images: t.TempDir()}}
	o.ID, o.Bundle = "other", h.bundle
	if _, err := h.Restore(t.Context(), o); !errors.Is(err, criu.ErrMissing) {
		t.Errorf("restore without CRIU: %v", err)
	}
	h.CRIU = nil
	if err := try(); !errors.Is(err, criu.ErrMissing) {
		t.Errorf("of a program without: %v", err)
	}
}

// noDriver is a CRIU that does not work.
type noDriver struct{ criu.Driver }

func (noDriver) Check(context.Context) error { return criu.ErrMissing }

// TestDeleteAfterAKilledRestoreKeepsTheRoot: the root file system was mounted
// in the container's folder, which is removed.
func TestDeleteAfterAKilledRestoreKeepsTheRoot(t *testing.T) {
	h := newHost(t)
	dir, root := filepath.Join(h.Root, h.id(), "root"), filepath.Join(h.bundle, "rootfs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := unix.Mount(root, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := h.Delete(t.Context(), h.id(), true); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
	if _, err := os.Stat(filepath.Join(root, "bin", "busybox")); err != nil {
		t.Error(err)
	}
}
