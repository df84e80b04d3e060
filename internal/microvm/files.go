package microvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/workload"
)

var (
	_ workload.Copier    = (*VM)(nil)
	_ workload.Lister    = (*VM)(nil)
	_ workload.Suspender = (*VM)(nil)
)

// Copy implements workload.Copier: the guest's agent does it.
func (v *VM) Copy(ctx context.Context, c workload.Copy, io workload.Stdio) (workload.Process, error) {
	g, err := v.withAgent()
	if err != nil {
		return nil, err
	}
	id, streams := fmt.Sprintf("copy-%d", v.execs.Add(1)), agent.IO{Stdin: io.In, Stdout: io.Out, Stderr: io.Err}
	var p *agent.Process
	if c.Layer {
		if g.machine.Paused() {
			return nil, fmt.Errorf("%w: the guest's agent packs its writable layer, and the whole VM is paused", workload.ErrNotRunning)
		}
		p, err = g.session.PackLayer(ctx, id, streams)
	} else {
		p, err = g.session.Copy(ctx, guestproto.Copy{ID: id, Path: c.Path, In: c.In, Keep: c.Keep, Directory: c.Directory, Follow: c.Follow}, streams)
	}
	if err != nil {
		return nil, err
	}
	return &process{p: p, vm: v, guest: g}, nil
}

// fill has the guest's agent fill the writable layer from a file that has come from
// elsewhere, if there is one.
func (v *VM) fill(ctx context.Context, s *agent.Session, u guestproto.Upper) error {
	if v.layer == nil {
		return nil
	}
	var why bytes.Buffer
	p, err := s.FillLayer(ctx, "layer", u, agent.IO{Stdin: v.layer, Stderr: cut{&why}})
	if err != nil {
		return err
	}
	e, err := p.Wait(ctx)
	if err == nil && e.Status() != 0 {
		err = errors.New(guestproto.CleanText(strings.TrimSpace(why.String())))
	}
	err = errors.Join(err, v.layer.Close())
	v.layer = nil
	return err
}

// maxReason bounds what is kept of the guest's reason.
const maxReason = 4 << 10

// cut keeps what comes up to that.
type cut struct{ b *bytes.Buffer }

// Write implements io.Writer.
func (c cut) Write(p []byte) (int, error) {
	c.b.Write(p[:min(len(p), max(0, maxReason-c.b.Len()))])
	return len(p), nil
}

// Tasks implements workload.Lister.
func (v *VM) Tasks(ctx context.Context) ([]workload.Task, error) {
	g, err := v.withAgent()
	if err != nil {
		return nil, err
	}
	t, err := g.session.Top(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	out := []workload.Task{}
	for _, p := range t.Processes {
		out = append(out, workload.Task{
			PID: p.PID, PPID: p.PPID, UID: p.UID, State: p.State, Threads: p.Threads, CPUNanoseconds: uint64(p.CPUNs),
			MemoryBytes: p.RSSBytes, Started: now.Add(-time.Duration(p.AgeNs)).Round(time.Millisecond), Command: guestproto.CleanText(p.Command),
		})
	}
	return out, nil
}
