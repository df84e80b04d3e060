package supervisor

import (
	"context"
	"fmt"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/workload"
)

// answering fails unless processes of the instance can be asked for something.
func (o *owner) answering() error {
	if err := o.here(); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.st.Status == workload.Paused {
		return fmt.Errorf("%s: %w: it is paused; hvctl resume %s", o.cfg.Name, workload.ErrNotRunning, o.cfg.Name)
	}
	return nil
}

// Copy implements control.Owner. A copy is a session without a process: it
// ends with the instance, and counts among the sessions.
func (o *owner) Copy(ctx context.Context, r control.CopyRequest, accept func() (*control.Peer, error)) error {
	can := o.answering
	if r.Layer { // which nobody inside is asked for
		can = o.here
	}
	if err := can(); err != nil {
		return err
	}
	c, ok := o.rt.(workload.Copier)
	if !ok {
		return fmt.Errorf("%s: copy: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	s, p, err := o.newSession(r.In, accept)
	if err != nil {
		return err
	}
	if s.proc, err = c.Copy(ctx, r, s.out.stdio(false)); err != nil {
		return err
	}
	o.keep(s)
	serve(s.out, p, r.In, true, control.Input{})
	return nil
}

// Tasks implements control.Owner.
func (o *owner) Tasks(ctx context.Context) ([]workload.Task, error) {
	if err := o.answering(); err != nil {
		return nil, err
	}
	l, ok := o.rt.(workload.Lister)
	if !ok {
		return nil, fmt.Errorf("%s: top: %w (%s)", o.cfg.Name, workload.ErrUnsupported, o.cfg.Backend)
	}
	return l.Tasks(ctx)
}
