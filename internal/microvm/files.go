package microvm

import (
	"context"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/workload"
)

var (
	_ workload.Copier = (*VM)(nil)
	_ workload.Lister = (*VM)(nil)
)

// Copy implements workload.Copier: the guest's agent does it.
func (v *VM) Copy(ctx context.Context, c workload.Copy, io workload.Stdio) (workload.Process, error) {
	if c.Layer {
		return nil, fmt.Errorf("%w: the writable layer of a VM is in the guest's memory, and only goes along with that", workload.ErrUnsupported)
	}
	g, err := v.withAgent()
	if err != nil {
		return nil, err
	}
	p, err := g.session.Copy(ctx, guestproto.Copy{
		ID: fmt.Sprintf("copy-%d", v.execs.Add(1)), Path: c.Path, In: c.In, Keep: c.Keep, Directory: c.Directory, Follow: c.Follow,
	}, agent.IO{Stdin: io.In, Stdout: io.Out, Stderr: io.Err})
	if err != nil {
		return nil, err
	}
	return &process{p: p, vm: v, guest: g}, nil
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
