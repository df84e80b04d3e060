package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/workload/workloadtest"
)

// session is a command that runs beside the test, which reads what it prints
// and types into it.
type session struct {
	h   *host
	cmd *exec.Cmd
	in  *os.File // our end of its standard input

	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *session) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *session) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// start runs the command line with pipes.
func (h *host) start(args ...string) *session {
	h.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	s := &session{h: h, cmd: h.command(context.Background(), args...), in: w}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = r, s, s
	s.launch(r)
	return s
}

// startTTY runs the command line on a terminal of 100 by 30.
func (h *host) startTTY(args ...string) *session {
	h.t.Helper()
	ptm, pts, err := workloadtest.OpenPTY()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := workloadtest.SetSize(ptm, 100, 30); err != nil {
		h.t.Fatal(err)
	}
	s := &session{h: h, cmd: h.command(context.Background(), args...), in: ptm}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = pts, pts, pts
	s.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	s.launch(pts)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := ptm.Read(b)
			_, _ = s.Write(b[:n])
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *session) launch(child *os.File) {
	s.h.t.Helper()
	err := s.cmd.Start()
	child.Close()
	if err != nil {
		s.h.t.Fatal(err)
	}
	s.h.t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it has ended, unless the test failed
		s.in.Close()
	})
}

func (s *session) typ(text string) {
	s.h.t.Helper()
	if _, err := s.in.WriteString(text); err != nil {
		s.h.t.Fatal(err)
	}
}

func (s *session) expect(text string) {
	s.h.t.Helper()
	defer func() {
		if s.h.t.Failed() {
			s.h.t.Logf("%v printed %q\n%s", s.cmd.Args[1:], s.text(), s.h.consoles())
		}
	}()
	eventually(s.h.t, "the output has "+text, func() bool { return strings.Contains(s.text(), text) })
}

// wait returns the exit status.
func (s *session) wait() int {
	s.h.t.Helper()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.h.t.Error(err)
	}
	return s.cmd.ProcessState.ExitCode()
}

// TestTerminal: a shell on a real terminal, as a person uses it.
func TestTerminal(t *testing.T) { onBoth(t, terminal) }

func terminal(t *testing.T, h *host) {
	s := h.startTTY(h.run("-it", "--name", "tty", "--network", "none", "debian:bookworm", "bash", "--norc")...)
	s.expect("# ")
	s.typ("stty size; tty; echo in:$((40+2)):$TERM\n")
	s.expect("30 100")
	s.expect("/dev/pts/0")
	s.expect("in:42:xterm")
	if err := workloadtest.SetSize(s.in, 77, 22); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(unix.SIGWINCH); err != nil { // the kernel sends it, too
		t.Fatal(err)
	}
	s.typ("until stty size | grep -q '22 77'; do sleep .1; done; echo re''sized\n")
	s.expect("resized")
	s.typ("printf '3\\n1\\n2\\n' | sort | tr '\\n' - && echo end\n")
	s.expect("1-2-3-end")
	s.typ("sleep 1000\n")
	s.expect("sleep 1000\r\n")
	s.typ("\x03")
	s.expect("^C")
	s.typ("echo status:$?\n")
	s.expect("status:130")
	s.typ("\x10\x11") // ctrl-p ctrl-q
	if code := s.wait(); code != 0 {
		t.Errorf("detached: exit %d, %q", code, s.text())
	}
	a := h.startTTY("attach", "tty")
	a.typ("echo back''again; exit 5\n")
	a.expect("backagain")
	if code := a.wait(); code != 5 {
		t.Errorf("attach: exit %d, %q", code, a.text())
	}
	h.ok("rm", "tty")
}
