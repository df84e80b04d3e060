package nscontainer

import (
	"context"
	"time"

	"github.com/hvctl/hvctl/internal/archive"
	"github.com/hvctl/hvctl/internal/proctable"
	"github.com/hvctl/hvctl/internal/workload"
)

// Copy implements workload.Copier: from here, through the root of the first
// process.
func (c *Container) Copy(_ context.Context, o workload.Copy, io workload.Stdio) (workload.Process, error) {
	if o.Layer {
		if _, err := c.running(); err != nil {
			return nil, err
		}
		return workload.Func(io, func() error { return c.layers.pack(io.Out) }), nil
	}
	dir, err := c.rootDir()
	if err != nil {
		return nil, err
	}
	root, err := archive.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return workload.Func(io, func() error {
		defer root.Close()
		if o.In {
			return archive.Unpack(io.In, root, o.Path, archive.Options{Keep: o.Keep, Directory: o.Directory})
		}
		return archive.Pack(io.Out, root, o.Path, o.Follow)
	}), nil
}

// Tasks implements workload.Lister.
func (c *Container) Tasks(context.Context) ([]workload.Task, error) {
	if _, err := c.running(); err != nil {
		return nil, err
	}
	pids, err := c.pids()
	if err != nil {
		return nil, err
	}
	ps, err := proctable.Read(pids)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	out := []workload.Task{}
	for _, p := range ps {
		out = append(out, workload.Task{
			PID: p.PID, PPID: p.PPID, UID: p.UID, State: p.State, Threads: p.Threads, CPUNanoseconds: uint64(p.CPU),
			MemoryBytes: p.RSS, Started: now.Add(-p.Age).Round(time.Millisecond), Command: p.Command,
		})
	}
	return out, nil
}
