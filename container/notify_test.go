package container_test

import (
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestSeccompAgentIsTold has an agent that takes the listener and lets go of
// it, which makes the system call fail with ENOSYS.
func TestSeccompAgentIsTold(t *testing.T) {
	h := newHost(t)
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	told := make(chan specs.ContainerProcessState, 2)
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				close(told)
				return
			}
			b, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
			c.Close()
			var st specs.ContainerProcessState
			msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil || len(msgs) != 1 || json.Unmarshal(b[:n], &st) != nil {
				continue
			}
			if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil {
				unix.Close(fds[0])
			}
			told <- st
		}
	}()
	s := h.spec("mkdir /tmp/x 2>/dev/null || sleep 1000")
	s.Process.NoNewPrivileges = true
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "meta",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}},
	}
	p := h.mustCreate(s)
	if err := h.Start(t.Context(), h.id()); err != nil {
		t.Fatal(err)
	}
	want := func(pid int, status specs.ContainerState) {
		t.Helper()
		select {
		case st, ok := <-told:
			if !ok || st.Pid != pid || st.Metadata != "meta" || st.State.ID != h.id() || st.State.Status != status || len(st.Fds) != 1 {
				t.Errorf("the agent was told %+v, want process %d", st, pid)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the agent was not told")
		}
	}
	want(p.PID, specs.StateCreating)
	pr := shell("mkdir /tmp/x 2>/dev/null || exit 3")
	pr.NoNewPrivileges = true
	proc, err := h.Exec(t.Context(), h.id(), container.ExecOptions{Process: pr})
	if err != nil {
		t.Fatal(err)
	}
	defer proc.FD.Close()
	want(proc.PID, specs.StateRunning)
	if code := wait(t, proc); code != 3 {
		t.Errorf("it ended with %d", code)
	}
}

// TestTooMuchForASeccompAgentIsRefused: what did not fit would be taken for the
// runtime's answers.
func TestTooMuchForASeccompAgentIsRefused(t *testing.T) {
	h := newHost(t)
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := h.spec("true")
	s.Process.NoNewPrivileges = true
	s.Annotations = map[string]string{"long": strings.Repeat("x", 100<<10)}
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: path,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}},
	}
	if _, err := h.create(s); err == nil || !strings.Contains(err.Error(), "linux.seccomp.listenerPath: the state for the agent has ") {
		t.Errorf("create: %v", err)
	}
	h.nothingLeft()
}

func TestOtherWaysToTheRoot(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*specs.Spec, *container.CreateOptions)
	}{
		{"without pivot_root", func(_ *specs.Spec, o *container.CreateOptions) { o.NoPivot = true }},
		{"without a mount namespace", func(s *specs.Spec, _ *container.CreateOptions) {
			s.Mounts = nil
			var ns []specs.LinuxNamespace
			for _, n := range s.Linux.Namespaces {
				if n.Type != specs.MountNamespace {
					ns = append(ns, n)
				}
			}
			s.Linux.Namespaces = ns
		}},
		{"shared with the host", func(s *specs.Spec, _ *container.CreateOptions) { s.Linux.RootfsPropagation = "shared" }},
		{"slave of the host", func(s *specs.Spec, _ *container.CreateOptions) { s.Linux.RootfsPropagation = "rslave" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			s := h.spec("ls -d /bin/busybox /etc/shadow 2>/dev/null; pwd")
			got, code := h.output(s, func(o *container.CreateOptions) { c.change(s, o) })
			if got != "/bin/busybox\n/" || code != 0 {
				t.Errorf("it sees %q, exit code %d", got, code)
			}
			if err := h.Delete(t.Context(), h.id(), true); err != nil {
				t.Error(err)
			}
			h.nothingLeft()
		})
	}
}
