package supervisor

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/exposition"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// running fails unless the first process exists and has not ended.
func (o *owner) running() error {
	if o.handed.over() {
		return errUpgraded(o.cfg.Name)
	}
	select {
	case <-o.ended:
		return fmt.Errorf("%s: %w: it has ended", o.cfg.Name, workload.ErrNotRunning)
	case <-o.cleaned: // never started
		return fmt.Errorf("%s: %w: it was not started", o.cfg.Name, workload.ErrNotRunning)
	default:
	}
	select {
	case <-o.started:
		return nil
	default:
		return fmt.Errorf("%s: %w: it is being started", o.cfg.Name, workload.ErrNotRunning)
	}
}

// here fails unless the first process exists, has not ended, and has not gone to
// another host with memory left behind.
func (o *owner) here() error {
	if err := o.running(); err != nil {
		return err
	}
	if m, ok := o.rt.(workload.Migrator); ok {
		if err := m.Away(); err != nil {
			return fmt.Errorf("%s: %w", o.cfg.Name, err)
		}
	}
	return nil
}

// still takes the right to pause and resume, as long as the instance is here.
func (o *owner) still() (release func(), err error) {
	if err := o.here(); err != nil {
		return nil, err
	}
	o.freezing.Lock()
	if err := o.here(); err != nil { // since then
		o.freezing.Unlock()
		return nil, err
	}
	return o.freezing.Unlock, nil
}

// Info implements control.Owner.
func (o *owner) Info(context.Context) (control.Info, error) {
	if o.handed.over() {
		return control.Info{}, errUpgraded(o.cfg.Name)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	i := control.Info{Config: o.cfg, State: o.st}
	for id := range o.sessions {
		i.Execs = append(i.Execs, id)
	}
	sort.Strings(i.Execs)
	if in, ok := o.rt.(workload.Inspector); ok {
		i.Inspect = in.Inspect()
	}
	return i, nil
}

// Signal implements control.Owner. SIGKILL to the first process is Kill: it
// must work when nothing in the instance answers any more.
func (o *owner) Signal(ctx context.Context, exec string, sig unix.Signal) error {
	if exec == "" && sig == unix.SIGKILL {
		return o.Kill(ctx)
	}
	if err := o.here(); err != nil {
		return err
	}
	p := o.proc
	if exec != "" {
		s, err := o.session(exec)
		if err != nil {
			return err
		}
		p = s.proc
	}
	o.event(control.EventSignal, map[string]string{"signal": fmt.Sprint(int(sig)), "exec": exec})
	return p.Signal(ctx, sig)
}

// Kill implements control.Owner.
func (o *owner) Kill(ctx context.Context) error {
	if err := o.running(); err != nil {
		return err
	}
	o.event(control.EventSignal, map[string]string{"signal": "9"})
	return o.rt.Kill(ctx)
}

// Pause implements control.Owner. Pausing what is paused does nothing, but that it
// completes a Suspend.
func (o *owner) Pause(ctx context.Context) error {
	return o.freeze(ctx, workload.Running, workload.Paused, control.EventPause, workload.Pauser.Pause)
}

// Resume implements control.Owner.
func (o *owner) Resume(ctx context.Context) error {
	return o.freeze(ctx, workload.Paused, workload.Running, control.EventResume, workload.Pauser.Resume)
}

// Suspend implements control.Owner.
func (o *owner) Suspend(ctx context.Context) error {
	do := workload.Pauser.Pause
	if s, ok := o.rt.(workload.Suspender); ok {
		do = func(_ workload.Pauser, ctx context.Context) error { return s.Suspend(ctx) }
	}
	return o.freeze(ctx, workload.Running, workload.Paused, control.EventPause, do)
}

func (o *owner) freeze(ctx context.Context, from, to workload.Status, event string, do func(workload.Pauser, context.Context) error) error {
	if err := o.running(); err != nil {
		return err
	}
	p, ok := o.rt.(workload.Pauser)
	if !ok {
		return fmt.Errorf("%s: pause: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	release, err := o.still() // one change at a time; o.mu must stay free for Info
	if err != nil {
		return err
	}
	defer release()
	o.mu.Lock()
	is := o.st.Status
	o.mu.Unlock()
	if _, ok := p.(workload.Suspender); ok && is == workload.Paused && to == workload.Paused {
		return do(p, ctx)
	}
	if is != from {
		return nil
	}
	if err := do(p, ctx); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.st.Status != from {
		return nil // it ended meanwhile
	}
	o.st.Status = to
	if err := o.inst.WriteState(o.st); err != nil {
		o.log.Error("recording the state", "err", err)
	}
	o.event(event, nil)
	return nil
}

// Wait implements control.Owner.
func (o *owner) Wait(ctx context.Context) (workload.Exit, error) {
	select {
	case <-o.cleaned:
		return o.exit, nil
	case <-o.handed.done:
		return workload.Exit{}, errUpgraded(o.cfg.Name)
	case <-ctx.Done():
		return workload.Exit{}, context.Cause(ctx)
	}
}

// Stop implements control.Owner. It goes on when the client that asked goes
// away.
func (o *owner) Stop(ctx context.Context, r control.StopRequest) (workload.Exit, error) {
	if r.Signal != "" {
		if _, err := workload.ParseSignal(r.Signal); err != nil {
			return workload.Exit{}, fmt.Errorf("%w: %w", control.ErrBadRequest, err)
		}
	}
	select {
	case <-o.cleaned:
		return o.exit, nil
	default:
	}
	if err := o.here(); err != nil {
		select {
		case <-o.ended: // and being cleaned up
			return o.Wait(ctx)
		default:
			return workload.Exit{}, err
		}
	}
	failed := make(chan error, 1)
	go func() { failed <- o.ladder(context.WithoutCancel(ctx), r) }()
	select {
	case <-o.cleaned:
		return o.exit, nil
	case err := <-failed:
		if err != nil && !o.handed.over() {
			return workload.Exit{}, err
		}
		return o.Wait(ctx)
	case <-o.handed.done:
		return o.Wait(ctx)
	case <-ctx.Done():
		return workload.Exit{}, context.Cause(ctx)
	}
}

// ladder is the stop sequence: the stop signal, the backend's gentlest way,
// the end. Each rung is tried even when the one before failed. It returns
// when the first process has ended or cannot be ended.
func (o *owner) ladder(ctx context.Context, r control.StopRequest) error {
	timeout := time.Duration(o.cfg.StopTimeoutSeconds) * time.Second
	if r.TimeoutSeconds != nil {
		timeout = time.Duration(*r.TimeoutSeconds) * time.Second
	}
	name := r.Signal
	for _, s := range []string{o.cfg.StopSignal, "TERM"} {
		if name == "" {
			name = s
		}
	}
	sig, err := workload.ParseSignal(name)
	if err != nil { // from an image's configuration
		sig = unix.SIGTERM
	}
	o.event(control.EventStop, map[string]string{"signal": fmt.Sprint(int(sig)), "timeout": timeout.String()})
	asked := time.Now()
	if err := o.stopSignal(ctx, sig, timeout); err != nil {
		o.log.Info("stop: signal", "signal", sig, "err", err)
		timeout = 0 // nobody heard it: no use in waiting
	}
	left := timeout
	if left > 0 {
		left = max(left-time.Since(asked), 0)
	}
	if o.endedWithin(left) {
		return nil
	}
	if timeout != 0 {
		sctx, cancel := context.WithTimeout(ctx, shutdownGrace)
		err := o.rt.Shutdown(sctx)
		cancel()
		if err != nil {
			o.log.Info("stop: shutdown", "err", err)
		} else if o.endedWithin(shutdownGrace) {
			return nil
		}
	}
	if err := o.rt.Kill(ctx); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	<-o.ended
	return nil
}

// stopSignal resumes what is paused and sends sig. It is bounded, for an
// instance that answers nothing, or whose pause does not end, has to be stopped
// too: by the time it has to end anyway, but signalGrace at least.
func (o *owner) stopSignal(ctx context.Context, sig unix.Signal, timeout time.Duration) error {
	if timeout >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(timeout, signalGrace))
		defer cancel()
	}
	sent := make(chan error, 1)
	go func() {
		if err := o.Resume(ctx); err != nil {
			o.log.Info("stop: resuming first", "err", err) // no pauser, or ended
		}
		sent <- o.proc.Signal(ctx, sig)
	}()
	select {
	case err := <-sent:
		return err
	case <-o.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("not delivered in time: %w", context.Cause(ctx))
	}
}

// endedWithin waits for the first process; d < 0: for ever.
func (o *owner) endedWithin(d time.Duration) bool {
	if d < 0 {
		<-o.ended
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-o.ended:
		return true
	case <-t.C:
		return false
	}
}

// Resize implements control.Owner.
func (o *owner) Resize(ctx context.Context, r control.ResizeRequest) error {
	if r.Exec != "" {
		s, err := o.session(r.Exec)
		if err != nil {
			return err
		}
		return s.proc.Resize(ctx, r.Columns, r.Rows)
	}
	o.mu.Lock()
	p := o.proc
	if p == nil {
		o.size = &r
	}
	o.mu.Unlock()
	if p == nil {
		return nil
	}
	if err := o.here(); err != nil {
		return err
	}
	return p.Resize(ctx, r.Columns, r.Rows)
}

// Sample implements control.Owner.
func (o *owner) Sample(ctx context.Context) (exposition.Sample, error) {
	stats, err := o.Stats(ctx)
	if err != nil {
		return exposition.Sample{}, err
	}
	s := exposition.Sample{ID: o.cfg.ID, Name: o.cfg.Name, Backend: o.cfg.Backend, Image: o.cfg.Image.Ref, Stats: stats}
	if m, ok := o.rt.(workload.Migrator); ok {
		s.Migration = new(m.Migration())
	}
	return s, nil
}

// Stats implements control.Owner.
func (o *owner) Stats(ctx context.Context) (workload.Stats, error) {
	if err := o.running(); err != nil {
		return workload.Stats{}, err
	}
	s, err := o.rt.Stats(ctx)
	if err == nil && s.Cgroup == nil {
		s.Cgroup = o.groupStats()
	}
	return s, err
}
