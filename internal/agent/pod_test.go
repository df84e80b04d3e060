package agent_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/testenv"
)

// startPod starts hvinit as the agent of a pod, with a root for each name.
func startPod(t *testing.T, roots ...string) *guest {
	t.Helper()
	g := startGuest(t, roots...)
	if err := g.Pod(t.Context(), guestproto.Pod{Share: "pod", Hostname: "the-pod"}); err != nil {
		t.Fatal(err)
	}
	return g
}

// create starts a container and returns what it prints.
func (g *guest) create(id string, args ...string) (*agent.Process, *io.PipeReader) {
	g.t.Helper()
	out, w := io.Pipe()
	g.t.Cleanup(func() { out.Close() })
	g.created++
	p, err := g.Create(g.t.Context(), guestproto.Container{ID: id, Process: proc(fmt.Sprintf("first-%s-%d", id, g.created), args...)}, agent.IO{Stdout: w, Stderr: w})
	if err != nil {
		g.t.Fatal(err)
	}
	return p, out
}

// in runs a command in a container and returns what it prints.
func (g *guest) in(container, id string, args ...string) string {
	g.t.Helper()
	var out syncBuffer
	pr := proc(id, args...)
	pr.Container = container
	p, err := g.Exec(g.t.Context(), pr, agent.IO{Stdout: &out, Stderr: &out})
	if err != nil {
		g.t.Fatal(err)
	}
	g.wait(p)
	return out.String()
}

func TestContainersOfAPod(t *testing.T) {
	g := startPod(t, "a", "b")
	a, outA := g.create("a", "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	b, outB := g.create("b", "sh", "-c", "echo ready; exec sleep 1000")
	readLine(t, outA, "ready")
	readLine(t, outB, "ready")

	for _, c := range []string{"a", "b"} {
		// Its own root and processes, the pod's name and loopback.
		got := g.in(c, "look-"+c, "sh", "-c", "cat /name; hostname; cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l; ip -o addr show lo | grep -c 127.0.0.1; ls /hv /pod /containers 2>&1 | grep -vc 'No such'")
		first := map[string]string{"a": "sh", "b": "sleep"}[c]
		if lines := strings.Fields(got); len(lines) != 6 || lines[0] != c || lines[1] != "the-pod" || lines[2] != first || lines[4] != "1" || lines[5] != "0" {
			t.Errorf("in %s: %q", c, got)
		}
		// Nothing of the other is mounted where it could be found.
		if got := g.in(c, "mounts-"+c, "sh", "-c", "cat /proc/self/mountinfo"); strings.Contains(got, "/containers/") || strings.Contains(got, "/base/pod") {
			t.Errorf("the mounts of %s: %s", c, got)
		}
	}

	g.in("a", "put", "sh", "-c", "echo shared >/dev/shm/x")
	if got := g.in("b", "get", "cat", "/dev/shm/x"); got != "shared\n" {
		t.Errorf("what a put into shared memory, in b: %q", got)
	}

	if _, err := g.Create(t.Context(), guestproto.Container{ID: "a", Process: proc("again", "true")}, agent.IO{}); !errors.Is(err, agent.ErrState) {
		t.Errorf("a second container of the same name: %v", err)
	}
	var se *agent.StartError
	if _, err := g.Create(t.Context(), guestproto.Container{ID: "c", Process: proc("c", "true")}, agent.IO{}); !errors.Is(err, agent.ErrFailed) {
		t.Errorf("a container without a root: %v", err)
	}

	if err := b.Signal(t.Context(), int(syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	if e := g.wait(b); e.Signal != 9 {
		t.Errorf("b: %+v", e)
	}
	pr := proc("late", "true")
	pr.Container = "b"
	if _, err := g.Exec(t.Context(), pr, agent.IO{}); !errors.Is(err, agent.ErrState) {
		t.Errorf("exec in a container that has ended: %v", err)
	}
	if err := g.Remove(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	if err := g.Remove(t.Context(), "b"); !errors.Is(err, agent.ErrState) {
		t.Errorf("removed twice: %v", err)
	}
	if got := g.in("a", "still", "echo", "there"); got != "there\n" {
		t.Errorf("a, after the end of b: %q", got)
	}
	// A name whose program does not start can be used again.
	for range 2 {
		if _, err := g.Create(t.Context(), guestproto.Container{ID: "b", Process: proc("nosuch", "nosuch")}, agent.IO{}); !errors.As(err, &se) || se.ExitCode != 127 {
			t.Errorf("a program that is not there: %v", err)
		}
	}
	if err := a.Signal(t.Context(), int(syscall.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	if e := g.wait(a); e.Code != 3 {
		t.Errorf("a: %+v", e)
	}
	if err := g.Remove(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	// Nothing runs any more, and the pod is still there.
	c, out := g.create("b", "sh", "-c", "echo ready; sleep 1000")
	readLine(t, out, "ready")
	at := filepath.Join(g.dir, "base/containers/*")
	if there, err := filepath.Glob(at); err != nil || len(there) != 1 {
		t.Errorf("%v, %v; want b's place", there, err)
	}
	if err := g.Remove(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	if e := g.wait(c); e.Signal != 9 {
		t.Errorf("removed while it ran: %+v", e)
	}
	if err := g.Shutdown(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	g.gone()
	if left, err := filepath.Glob(at); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// slowRoot is a file system that answers when it is told to.
type slowRoot struct {
	fuse.RawFileSystem
	asked chan struct{}
	go_   chan struct{}
}

func (s *slowRoot) Lookup(<-chan struct{}, *fuse.InHeader, string, *fuse.EntryOut) fuse.Status {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-s.go_
	return fuse.ENOENT
}

func (s *slowRoot) GetAttr(_ <-chan struct{}, _ *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Mode = syscall.S_IFDIR | 0o755
	return fuse.OK
}

// While a container is being built whose files do not come, another one has its
// signals and its exec.
func TestAContainerInTheMakingHoldsUpNoOther(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.FUSE)
	slow := &slowRoot{fuse.NewDefaultRawFileSystem(), make(chan struct{}, 1), make(chan struct{})}
	at := t.TempDir()
	server, err := fuse.NewServer(slow, at, &fuse.MountOptions{DirectMountStrict: true})
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	t.Cleanup(func() { _ = server.Unmount() })
	g := startPod(t, "a", "slow="+at)
	a, out := g.create("a", "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	readLine(t, out, "ready")
	made := make(chan error, 1)
	go func() {
		_, err := g.Create(t.Context(), guestproto.Container{ID: "slow", Process: proc("slow", "true")}, agent.IO{})
		made <- err
	}()
	<-slow.asked
	if got := g.in("a", "x", "echo", "x"); got != "x\n" {
		t.Errorf("exec: %q", got)
	}
	if err := a.Signal(t.Context(), int(syscall.SIGTERM)); err != nil {
		t.Error(err)
	}
	if e := g.wait(a); e.Code != 3 {
		t.Errorf("a: %+v", e)
	}
	select {
	case err := <-made:
		t.Errorf("the slow one: %v", err)
	default:
	}
	close(slow.go_)
	if err := <-made; err == nil {
		t.Error("a container without a root was made")
	}
	if err := g.Shutdown(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	g.gone()
}

// rootsOf makes the roots of a pod's containers in dir: NAME for a new one that
// holds its name in /name, NAME=DIR for what lies in DIR.
func rootsOf(t *testing.T, dir string, roots []string) error {
	for _, r := range roots {
		name, from, bound := strings.Cut(r, "=")
		at := filepath.Join(dir, name)
		if bound {
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
			if err := syscall.Mount(from, at, "", syscall.MS_BIND, ""); err != nil {
				return err
			}
			t.Cleanup(func() { _ = syscall.Unmount(at, syscall.MNT_DETACH) })
			continue
		}
		if err := makeRootfs(at); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(at, "name"), []byte(name+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// A guest that was restored may have the agent of the build before.
func TestAgentOfTheBuildBeforeKnowsNoPods(t *testing.T) {
	g := newFakeGuest(t)
	g.dial()
	g.say(guestproto.NotifyHello, guestproto.Hello{Version: guestproto.VersionPods - 1, Kernel: "6.1.0"})
	err := g.s.Pod(t.Context(), guestproto.Pod{})
	if !errors.Is(err, agent.ErrState) || !strings.Contains(err.Error(), "no pods") {
		t.Error(err)
	}
	if h, err := g.s.Ready(t.Context()); err != nil || h.Version != guestproto.VersionPods-1 {
		t.Errorf("%+v, %v", h, err)
	}
}
