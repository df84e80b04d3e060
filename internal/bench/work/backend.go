package work

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
)

// Backend runs the command in our own containers or VMs, as `hvctl run` does.
type Backend struct {
	Backend   workload.Backend
	Instances *instance.Store
}

// Name implements Target.
func (b *Backend) Name() string { return b.Backend.Name() }

// ownerGrace is how long an owner may take to leave when its instance has ended.
const ownerGrace = 10 * time.Second

// Run implements Target.
func (b *Backend) Run(ctx context.Context, j Job) (e Ended, err error) {
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
	cfg.Backend, cfg.Res.CgroupParent = b.Backend.Name(), a.path
	if err := b.Backend.Prepare(ctx, cfg); err != nil {
		return e, err
	}
	i, err := b.Instances.Create(cfg, instance.CreateOptions{})
	if err != nil {
		return e, err
	}
	h := launch.NewHandle(i, b.Backend)
	defer func() {
		if derr := h.ForceDelete(context.WithoutCancel(ctx)); !errors.Is(derr, workload.ErrNotFound) {
			err = errors.Join(err, derr)
		}
	}()
	r, err := launch.Start(ctx, b.Backend, i, launch.Options{Attach: true, StdinOnce: true, Group: a.owner})
	if serr, ok := errors.AsType[*workload.StartError](err); ok { // there is no such program: it ended, as any other does
		e.Exit = workload.Exit{Code: serr.Code, Err: serr.Error()}
		clk.started = now()
		clk.fill(&e)
		return e, a.fill(&e)
	}
	if err != nil {
		return e, err
	}
	clk.started = now()
	defer context.AfterFunc(ctx, func() { _ = h.ForceDelete(context.WithoutCancel(ctx)) })()
	e.Exit, err = r.Stream.Copy(nil, orDiscard(j.Stdout), orDiscard(j.Stderr))
	clk.fill(&e)
	if err != nil {
		return e, errors.Join(err, context.Cause(ctx))
	}
	r.WaitOwner(ownerGrace) // its end belongs to what it costs
	return e, errors.Join(a.fill(&e), context.Cause(ctx))
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

func now() time.Time { return time.Now() }
