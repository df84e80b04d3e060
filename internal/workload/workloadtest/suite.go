package workloadtest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Target is a backend for the Suite.
type Target struct {
	Backend workload.Backend
	// Config returns a configuration whose root file system has a POSIX
	// shell, cat, sleep and stty in DefaultPath. The suite sets the process
	// and calls Backend.Prepare.
	Config func(t *testing.T) *workload.Config
	// Timeout bounds each case; 0: a minute.
	Timeout time.Duration
	// Only names the cases to run; empty: all.
	Only []string
}

// Suite is the life of an instance as every backend must live it. It drives
// the backend from outside, through owner processes and their sockets.
func Suite(t *testing.T, target Target) {
	if target.Timeout == 0 {
		target.Timeout = time.Minute
	}
	for _, c := range []struct {
		name string
		run  func(*bench)
	}{
		{"exit code and streams", testStreams},
		{"signal gives 128+n", testSignalCode},
		{"input until end of file", testInput},
		{"environment and directory", testEnvironment},
		{"missing program is 127", testNotFound},
		{"program that is a directory is 126", testNotExecutable},
		{"terminal with size", testTerminal},
		{"exec beside the first process", testExec},
		{"exec ends with the instance", testExecEnds},
		{"signals reach the process", testSignal},
		{"stop by signal", testStop},
		{"stop by force", testStopForce},
		{"kill", testKill},
		{"pause and resume", testPause},
		{"stats count", testStats},
		{"attach, top, cp, update", testVerbs},
		{"owner killed", testOwnerKilled},
		{"removes itself", testAutoRemove},
		{"many bytes", testManyBytes},
	} {
		if len(target.Only) > 0 && !slices.Contains(target.Only, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), target.Timeout)
			defer cancel()
			s, err := instance.OpenStore(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { // what killed owners left, after all instances were removed
				if err := launch.Sweep(context.Background(), s); err != nil {
					t.Error(err)
				}
			})
			c.run(&bench{T: t, ctx: ctx, target: target, store: s})
		})
	}
}

// bench is one case's workbench.
type bench struct {
	*testing.T
	ctx    context.Context
	target Target
	store  *instance.Store
}

// start runs args; change may alter the configuration before.
func (b *bench) start(change func(*workload.Config), args ...string) (*launch.Handle, *launch.Running, error) {
	b.Helper()
	c := b.target.Config(b.T)
	c.ID, c.Backend, c.StopTimeoutSeconds = instance.NewID(), b.target.Backend.Name(), 10
	var err error
	if c.Spec, err = workload.NewSpec(workload.SpecOptions{Args: args}); err != nil {
		b.Fatal(err)
	}
	if change != nil {
		change(c)
	}
	if err := b.target.Backend.Prepare(b.ctx, c); err != nil {
		b.Fatal(err)
	}
	i, err := b.store.Create(c, instance.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	h := launch.NewHandle(i, b.target.Backend)
	b.Cleanup(func() { _ = h.ForceDelete(context.Background()) }) // it may have removed itself
	r, err := launch.Start(b.ctx, b.target.Backend, i, launch.Options{Attach: true, StdinOnce: true})
	return h, r, err
}

func (b *bench) mustStart(change func(*workload.Config), args ...string) (*launch.Handle, *launch.Running) {
	b.Helper()
	h, r, err := b.start(change, args...)
	if err != nil {
		b.Fatal(err)
	}
	return h, r
}

// finish reads what the first process writes until it ends.
func (b *bench) finish(r *launch.Running, in string) (code int, out, errOut string) {
	b.Helper()
	var o, e bytes.Buffer
	exit, err := r.Stream.Copy(strings.NewReader(in), &o, &e)
	if err != nil {
		b.Fatalf("%v; stdout %q, stderr %q", err, o.String(), e.String())
	}
	return exit.Code, o.String(), e.String()
}

// exec runs script in the instance's shell to its end.
func (b *bench) exec(h *launch.Handle, script string) (code int, out string) {
	b.Helper()
	s, err := h.Exec(b.ctx, control.ExecRequest{Process: shell(script)})
	if err != nil {
		b.Fatal(err)
	}
	var o bytes.Buffer
	exit, err := s.Copy(nil, &o, &o)
	if err != nil {
		b.Fatalf("exec %q: %v; output %q", script, err, o.String())
	}
	return exit.Code, o.String()
}

func shell(script string) *specs.Process {
	p, err := workload.NewProcess(workload.SpecOptions{Args: []string{"sh", "-c", script}})
	if err != nil {
		panic(err) // constant input
	}
	return p
}

// await follows the log until it has text.
func (b *bench) await(h *launch.Handle, text string) {
	b.Helper()
	var seen strings.Builder
	found := errors.New("found")
	err := h.ReadLog(b.ctx, instance.ReadOptions{Follow: true}, func(e instance.Entry) error {
		seen.Write(e.Data())
		if strings.Contains(seen.String(), text) {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		b.Fatalf("log: %v; it has %q, want %q", err, seen.String(), text)
	}
}

func (b *bench) want(what string, got, want any) {
	b.Helper()
	if got != want {
		b.Errorf("%s: %v, want %v", what, got, want)
	}
}

func testStreams(b *bench) {
	h, r := b.mustStart(nil, "sh", "-c", "echo out; echo err >&2; exit 7")
	code, out, errOut := b.finish(r, "")
	b.want("exit code", code, 7)
	b.want("stdout", out, "out\n")
	b.want("stderr", errOut, "err\n")
	st, err := h.Instance.State()
	if err != nil || st.Exit == nil {
		b.Fatalf("state %+v, %v", st, err)
	}
	b.want("status", st.Status, workload.Exited)
	b.want("recorded code", st.Exit.Code, 7)
	b.want("owner", st.PID, 0)
}

func testSignalCode(b *bench) {
	// A shell of its own: the first process of a PID namespace ignores
	// signals it has no handler for.
	_, r := b.mustStart(nil, "sh", "-c", "sh -c 'kill -TERM $$'; exit $?")
	code, _, _ := b.finish(r, "")
	b.want("exit code", code, 128+15)
}

func openStdin(c *workload.Config) { c.OpenStdin = true }

func testInput(b *bench) {
	_, r := b.mustStart(openStdin, "cat")
	_, out, _ := b.finish(r, "hello\n")
	b.want("output", out, "hello\n")
	_, r = b.mustStart(nil, "cat") // no input: end of file at once
	code, out, _ := b.finish(r, "ignored")
	b.want("without -i", out, "")
	b.want("exit code", code, 0)
}

func testEnvironment(b *bench) {
	_, r := b.mustStart(func(c *workload.Config) {
		c.Spec.Process.Env = append(c.Spec.Process.Env, "A=b c")
		c.Spec.Process.Cwd = "/usr"
	}, "sh", "-c", `echo "$A"; pwd`)
	_, out, _ := b.finish(r, "")
	b.want("output", out, "b c\n/usr\n")
}

func (b *bench) failsWith(code int, args ...string) {
	b.Helper()
	_, r, err := b.start(nil, args...)
	if se, ok := errors.AsType[*workload.StartError](err); ok {
		b.want("code", se.Code, code)
		return
	}
	if err != nil {
		b.Fatal(err)
	}
	var o bytes.Buffer // a backend that starts first and finds out later
	exit, err := r.Stream.Copy(nil, &o, &o)
	if err != nil {
		b.Fatal(err)
	}
	b.want("exit code", exit.Code, code)
}

func testNotFound(b *bench)      { b.failsWith(workload.ExitNotFound, "no-such-program") }
func testNotExecutable(b *bench) { b.failsWith(workload.ExitNotExecutable, "/usr") }

func testTerminal(b *bench) {
	_, r := b.mustStart(func(c *workload.Config) {
		c.OpenStdin = true
		c.Spec.Process.Terminal = true
		c.Spec.Process.ConsoleSize = &specs.Box{Width: 101, Height: 31}
	}, "sh", "-c", "stty size; read x; stty size")
	pr, pw := newPipe()
	out := &watched{want: "31 101", seen: func() {
		_ = r.Stream.Resize(102, 32)
		_, _ = pw.Write([]byte("go\n"))
	}}
	exit, err := r.Stream.Copy(pr, out, out)
	if err != nil {
		b.Fatal(err)
	}
	b.want("exit code", exit.Code, 0)
	if s := out.String(); !strings.Contains(s, "32 102\r\n") {
		b.Errorf("terminal: %q", s)
	}
}

func testExec(b *bench) {
	h, r := b.mustStart(nil, "sh", "-c", "echo up; exec sleep 1000")
	go func() { _, _ = r.Stream.Copy(nil, &bytes.Buffer{}, &bytes.Buffer{}) }() // ends with the instance
	b.await(h, "up")
	code, out := b.exec(h, "echo hi; exit 5")
	b.want("exit code", code, 5)
	b.want("output", out, "hi\n")
	s, err := h.Exec(b.ctx, control.ExecRequest{Process: shell("cat; echo e >&2"), Stdin: true})
	if err != nil {
		b.Fatal(err)
	}
	var o, e bytes.Buffer
	if _, err := s.Copy(strings.NewReader("in"), &o, &e); err != nil {
		b.Fatal(err)
	}
	b.want("output of cat", o.String(), "in")
	b.want("errors", e.String(), "e\n")
	p := shell("x")
	p.Args = []string{"no-such-program"}
	var se *workload.StartError
	s, err = h.Exec(b.ctx, control.ExecRequest{Process: p})
	if err == nil {
		var exit workload.Exit
		if exit, err = s.Copy(nil, &o, &e); err == nil {
			se = &workload.StartError{Code: exit.Code}
		}
	}
	if se == nil && !errors.As(err, &se) {
		b.Fatalf("missing program: %v", err)
	}
	b.want("missing program", se.Code, workload.ExitNotFound)
}

func testExecEnds(b *bench) {
	h, _ := b.mustStart(nil, "sleep", "1000")
	s, err := h.Exec(b.ctx, control.ExecRequest{Process: shell("echo up; exec sleep 1000")})
	if err != nil {
		b.Fatal(err)
	}
	out := &watched{want: "up", seen: func() { _ = h.Kill(b.ctx) }}
	exit, err := s.Copy(nil, out, out)
	if err != nil && !errors.Is(err, control.ErrGone) {
		b.Fatal(err)
	}
	if err == nil && exit.Code == 0 {
		b.Error("an exec cut off by the instance's end has exit code 0")
	}
}

const trapLoop = "echo up; while :; do sleep 0.1; done"

func testSignal(b *bench) {
	h, _ := b.mustStart(nil, "sh", "-c", `trap "echo usr1" USR1; trap "exit 9" USR2; `+trapLoop)
	b.await(h, "up")
	if err := h.Signal(b.ctx, unix.SIGUSR1); err != nil {
		b.Fatal(err)
	}
	b.await(h, "usr1")
	if err := h.Signal(b.ctx, unix.SIGUSR2); err != nil {
		b.Fatal(err)
	}
	e, err := h.Wait(b.ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.want("exit code", e.Code, 9)
	if err := h.Signal(b.ctx, unix.SIGUSR1); !errors.Is(err, workload.ErrNotRunning) {
		b.Errorf("signal to an ended one: %v", err)
	}
}

func testStop(b *bench) {
	h, _ := b.mustStart(func(c *workload.Config) { c.StopSignal = "SIGUSR1" }, "sh", "-c", `trap "exit 4" USR1; `+trapLoop)
	b.await(h, "up")
	e, err := h.Stop(b.ctx, control.StopRequest{})
	if err != nil {
		b.Fatal(err)
	}
	b.want("exit code", e.Code, 4)
}

func testStopForce(b *bench) {
	h, _ := b.mustStart(nil, "sh", "-c", `trap "" TERM USR2 INT; `+trapLoop)
	b.await(h, "up")
	zero := 0
	e, err := h.Stop(b.ctx, control.StopRequest{TimeoutSeconds: &zero})
	if err != nil {
		b.Fatal(err)
	}
	b.want("exit code", e.Code, 137)
}

func testKill(b *bench) {
	h, _ := b.mustStart(nil, "sh", "-c", `trap "" TERM; `+trapLoop)
	b.await(h, "up")
	if err := h.Kill(b.ctx); err != nil {
		b.Fatal(err)
	}
	e, err := h.Wait(b.ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.want("exit code", e.Code, 137)
	if err := h.Delete(b.ctx); err != nil {
		b.Error(err)
	}
}

func testPause(b *bench) {
	h, _ := b.mustStart(nil, "sh", "-c", `trap "echo usr1" USR1; `+trapLoop)
	b.await(h, "up")
	if err := h.Pause(b.ctx); err != nil {
		if errors.Is(err, workload.ErrUnsupported) {
			b.Skip(err)
		}
		b.Fatal(err)
	}
	st, err := h.Instance.State()
	if err != nil {
		b.Fatal(err)
	}
	b.want("status", st.Status, workload.Paused)
	if _, err := h.Exec(b.ctx, control.ExecRequest{Process: shell("true")}); !errors.Is(err, workload.ErrNotRunning) {
		b.Errorf("exec in a paused one: %v", err)
	}
	if err := h.Resume(b.ctx); err != nil {
		b.Fatal(err)
	}
	if err := h.Signal(b.ctx, unix.SIGUSR1); err != nil {
		b.Fatal(err)
	}
	b.await(h, "usr1")
}

func testStats(b *bench) {
	h, _ := b.mustStart(nil, "sh", "-c", "echo up; exec sleep 1000")
	b.await(h, "up")
	s, err := h.Stats(b.ctx)
	if err != nil {
		b.Fatal(err)
	}
	if s.At.IsZero() || s.CPUNanoseconds == 0 || s.MemoryBytes == 0 || s.PIDs == 0 {
		b.Errorf("%+v", s)
	}
}

func testOwnerKilled(b *bench) {
	h, r := b.mustStart(nil, "sh", "-c", "echo up; exec sleep 1000")
	b.await(h, "up")
	if err := unix.Kill(r.PID(), unix.SIGKILL); err != nil {
		b.Fatal(err)
	}
	e, err := h.Wait(b.ctx)
	if err != nil || e.Code != 137 {
		b.Errorf("%+v, %v", e, err)
	}
	r.WaitOwner(time.Minute)
	st, err := h.Instance.State()
	if err != nil {
		b.Fatal(err)
	}
	b.want("status", st.Status, workload.Dead)
	i, err := b.store.Create(&workload.Config{Name: h.Name()}, instance.CreateOptions{})
	if err != nil {
		b.Fatalf("the same name again: %v", err)
	}
	i.Unlock()
}

func testAutoRemove(b *bench) {
	h, r := b.mustStart(func(c *workload.Config) { c.AutoRemove = true }, "sh", "-c", "exit 3")
	code, _, _ := b.finish(r, "")
	b.want("exit code", code, 3)
	if _, err := b.store.Open(h.ID()); !errors.Is(err, workload.ErrNotFound) {
		b.Errorf("still there when the exit was told: %v", err)
	}
	i, err := b.store.Create(&workload.Config{Name: h.Name()}, instance.CreateOptions{})
	if err != nil {
		b.Fatalf("the same name again: %v", err)
	}
	i.Unlock()
}

func testManyBytes(b *bench) {
	_, r := b.mustStart(openStdin, "cat")
	in := strings.Repeat("0123456789abcdef\n", 1<<16)
	_, out, _ := b.finish(r, in)
	if out != in {
		b.Errorf("%d bytes came back of %d, or others", len(out), len(in))
	}
}
