package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/hvctl/hvctl/migrate"
)

// process is a VMM's process and its standard streams.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.Reader
	errors tail
}

// launch starts a program in a namespace.
func launch(ctx context.Context, n *namespace, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, name, args...)}
	p.cmd.Stderr = &p.errors
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return p, n.start(p.cmd)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// end kills the process: what it holds goes with it.
func (p *process) end() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
}

// processes are those of both sides.
type processes struct{ from, to *process }

func (p processes) pids() (from, to int) { return p.from.pid(), p.to.pid() }

// words is what the processes complained of.
func (p processes) words() error {
	var all []error
	for _, x := range []*process{p.from, p.to} {
		if x != nil && x.errors.String() != "" {
			all = append(all, errors.New(x.errors.String()))
		}
	}
	return errors.Join(all...)
}

func (p processes) end() {
	for _, x := range []*process{p.from, p.to} {
		if x != nil {
			x.end()
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - 2000; n > 0 {
		t.b = t.b[n:]
	}
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.b)) }

// hvctlTarget moves a machine of ours between two processes of this program.
type hvctlTarget struct {
	o       Options
	tls     bool
	streams int
}

func (t *hvctlTarget) name() string {
	how := "tcp"
	if t.tls {
		how = "tls"
	}
	return fmt.Sprintf("hvctl/%s/%d", how, t.streams)
}

const hvctlPort = "7443"

func (t *hvctlTarget) start(ctx context.Context, l *link, g guest) (_ pair, err error) {
	v := &hvctlPair{streams: t.streams}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.words())
			v.close()
		}
	}()
	base, err := os.MkdirTemp(t.o.Dir, "hvctl")
	if err != nil {
		return nil, err
	}
	v.dir = base
	s := Setup{
		Dir: filepath.Join(base, "from"), Kernel: g.kernel, Initrd: g.initrd, Cmdline: g.cmdline,
		CPUs: t.o.CPUs, MemoryMiB: t.o.MemoryMiB,
	}
	d := s
	d.Dir, d.Listen = filepath.Join(base, "to"), destIP+":"+hvctlPort
	for _, dir := range []string{s.Dir, d.Dir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if t.tls {
		s.Identity, d.Identity = base, base
	}
	if v.to, err = v.vmm(ctx, l.to, t.o.Hvctl, d); err != nil {
		return nil, err
	}
	if v.from, err = v.vmm(ctx, l.from, t.o.Hvctl, s); err != nil {
		return nil, err
	}
	v.answers = json.NewDecoder(v.from.out)
	var w Word
	for _, p := range []*json.Decoder{json.NewDecoder(v.to.out), v.answers} {
		if err := p.Decode(&w); err != nil || !w.Up {
			return nil, fmt.Errorf("a VMM did not come up: %w", err)
		}
	}
	return v, nil
}

// hvctlPair is the two processes.
type hvctlPair struct {
	processes
	dir     string
	answers *json.Decoder
	streams int
	report  *migrate.Report
}

func (v *hvctlPair) vmm(ctx context.Context, n *namespace, hvctl string, s Setup) (*process, error) {
	p, err := launch(ctx, n, hvctl, "bench", "migrate-vmm")
	if err != nil {
		return nil, err
	}
	return p, json.NewEncoder(p.in).Encode(s)
}

func (v *hvctlPair) migrate(_ context.Context, o Options) error {
	err := json.NewEncoder(v.from.in).Encode(Order{To: destIP + ":" + hvctlPort, Downtime: o.Downtime, Timeout: o.Timeout, Streams: v.streams})
	if err != nil {
		return err
	}
	var w Word
	if err := v.answers.Decode(&w); err != nil {
		return err
	}
	if w.Error != "" {
		return errors.New(w.Error)
	}
	v.report = w.Report
	return nil
}

func (v *hvctlPair) account(_ context.Context, s *Sample) error {
	s.Rounds = len(v.report.Rounds) + 1
	s.VMMDowntimeNs = v.report.Blackout.Total.Nanoseconds()
	s.Report = v.report
	return nil
}

func (v *hvctlPair) close() {
	v.end()
	_ = os.RemoveAll(v.dir)
}
