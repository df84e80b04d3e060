package work

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/bench/qemuvm"
	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/workload"
)

// QEMU runs the command in QEMU's microvm machine: with the kernel, initramfs,
// agent and root file system image that our VM has. Needs root and vhost_vsock.
type QEMU struct {
	Backend workload.Backend // ours, whose kernel and initramfs it takes over
	Dir     string           // for the guest's serial port
}

// Name implements Target.
func (q *QEMU) Name() string { return "qemu" }

// Run implements Target.
func (q *QEMU) Run(ctx context.Context, j Job) (e Ended, err error) {
	cfg, err := j.Config()
	if err != nil {
		return e, err
	}
	e.ID = cfg.ID
	clk := newClock()
	a, err := openAccount(cfg.ID)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	if err := q.Backend.Prepare(ctx, cfg); err != nil {
		return e, err
	}
	k, err := boot.OpenKernel(cfg.VM.Kernel, cfg.VM.KernelCache)
	if err != nil {
		return e, err
	}
	defer k.Close()
	conns, err := qemuvm.Listen()
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, conns.Close()) }()
	var limits *specs.LinuxResources
	if l, ok := q.Backend.(workload.OwnerLimiter); ok {
		limits, _ = l.OwnerLimits(cfg)
	}
	g, err := cgroup.Create(cgroup.Options{Path: path.Join(a.path, "qemu"), Resources: limits})
	if err != nil {
		return e, err
	}
	c := exec.Command(qemuvm.Program, qemuvm.Arguments(cfg, k.ELFPath(), max(1, int(cfg.Res.CPUs+0.999)), int(cfg.Res.MemoryBytes>>20), filepath.Join(q.Dir, "qemu-serial.log"))...)
	var words tail
	c.Stderr = &words
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	session := agent.New(conns, agent.Options{})
	served := make(chan struct{})
	go func() { defer close(served); _ = session.Serve(ctx) }() // ends with ctx
	if err := start(c, g); err != nil {
		cancel(err)
		<-served
		return e, err
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		cancel(fmt.Errorf("QEMU ended: %w: %s", errors.Join(c.Wait(), errors.New("before its guest's program")), words.String()))
	}()
	defer func() {
		_ = c.Process.Kill() // it may have powered off already
		<-left
		<-served
	}()
	if err := q.guest(ctx, session, cfg, j, clk, &e); err != nil {
		return e, errors.Join(err, context.Cause(ctx))
	}
	select { // the guest powers off when its first process has ended
	case <-left:
	case <-time.After(ownerGrace):
	}
	return e, a.fill(&e)
}

// guest does what hvctl does with its own guests: one run message, and the exit.
func (q *QEMU) guest(ctx context.Context, session *agent.Session, cfg *workload.Config, j Job, clk *clock, e *Ended) error {
	if _, err := session.Ready(ctx); err != nil {
		return err
	}
	p := cfg.Spec.Process
	proc, err := session.Run(ctx, guestproto.Run{
		Root:     guestproto.Root{Device: guestproto.Device{Serial: "root"}, FSType: cfg.Rootfs.FSType},
		Hostname: cfg.Spec.Hostname,
		Process:  guestproto.Process{ID: "main", User: p.User.Username, Spec: *p},
		Clock:    time.Now().UnixNano(), Entropy: agent.NewEntropy(),
	}, agent.IO{Stdout: orDiscard(j.Stdout), Stderr: orDiscard(j.Stderr)})
	if serr, ok := errors.AsType[*agent.StartError](err); ok {
		e.Exit = workload.Exit{Code: serr.ExitCode, Err: serr.Message}
		clk.started = now()
		clk.fill(e)
		return nil
	}
	if err != nil {
		return err
	}
	clk.started = now()
	exit, err := proc.Wait(ctx)
	e.Exit = workload.Exit{Code: exit.Code, OOM: exit.OOM, At: now()}
	if exit.Signal != 0 {
		e.Exit.Code = 128 + exit.Signal
	}
	clk.fill(e)
	return err
}
