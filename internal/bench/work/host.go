package work

import (
	"context"
	"errors"
	"os/exec"
	"path"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/workload"
)

// Host runs the command as a process of the host, changed into the image's
// files, with the network of the host's loopback alone. Needs root.
type Host struct {
	Tree string // the image's files
	Dir  string // for mounts
}

// Name implements Target.
func (h *Host) Name() string { return "host" }

// Run implements Target.
func (h *Host) Run(ctx context.Context, j Job) (e Ended, err error) {
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
	r, err := mountRoot(h.Tree, filepath.Join(h.Dir, cfg.ID[:12]))
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, r.drop()) }()
	if err := errors.Join(r.mount("proc", "proc", "proc", 0, ""), r.mount("/dev", "dev", "", syscall.MS_BIND|syscall.MS_REC, "")); err != nil {
		return e, err
	}
	limits := cgroup.Limits{CPUs: cfg.Res.CPUs, Tasks: cfg.Res.PIDs}.Resources()
	if n := int64(cfg.Res.MemoryBytes); n > 0 {
		limits.Memory = &specs.LinuxMemory{Limit: &n}
	}
	g, err := cgroup.Create(cgroup.Options{Path: path.Join(a.path, "process"), Resources: limits})
	if err != nil {
		return e, err
	}
	who, err := creds(r.Path(), cfg.Spec.Process)
	if err != nil {
		return e, err
	}
	program, err := lookPath(r.Path(), cfg.Spec.Process)
	if err != nil {
		e.Exit = workload.Exit{Code: 127, Err: err.Error()}
		clk.started = clk.begin
		clk.fill(&e)
		return e, nil
	}
	p := cfg.Spec.Process
	c := &exec.Cmd{
		Path: program, Args: p.Args, Env: etcfiles.Environment(p.Env, who, cfg.Spec.Hostname, false), Dir: p.Cwd, Stdout: j.Stdout, Stderr: j.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Chroot: r.Path(), Setsid: true, Credential: &syscall.Credential{Uid: who.UID, Gid: who.GID, Groups: who.Groups}},
	}
	if err := start(c, g); err != nil {
		return e, err
	}
	clk.started = now()
	defer context.AfterFunc(ctx, func() { _ = g.Kill(context.WithoutCancel(ctx)) })()
	if err := c.Wait(); err != nil && c.ProcessState == nil {
		return e, err
	}
	e.Exit = exitOf(c.ProcessState)
	clk.fill(&e)
	return e, errors.Join(a.fill(&e), context.Cause(ctx))
}
