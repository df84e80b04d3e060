package workloadtest

import (
	"context"
	"time"

	"github.com/hvctl/hvctl/internal/archive"
	"github.com/hvctl/hvctl/internal/proctable"
	"github.com/hvctl/hvctl/internal/workload"
)

var (
	_ workload.Copier = (*Runtime)(nil)
	_ workload.Lister = (*Runtime)(nil)
)

// Copy implements workload.Copier: the fake's files are the host's.
func (r *Runtime) Copy(_ context.Context, c workload.Copy, io workload.Stdio) (workload.Process, error) {
	root, err := archive.OpenRoot("/")
	if err != nil {
		return nil, err
	}
	return workload.Func(io, func() error {
		defer root.Close()
		if c.In {
			return archive.Unpack(io.In, root, c.Path, archive.Options{Keep: c.Keep, Directory: c.Directory})
		}
		return archive.Pack(io.Out, root, c.Path, c.Follow)
	}), nil
}

// Tasks implements workload.Lister.
func (r *Runtime) Tasks(context.Context) ([]workload.Task, error) {
	r.mu.Lock()
	var pids []int
	for p := range r.procs {
		pids = append(pids, p.cmd.Process.Pid)
	}
	r.mu.Unlock()
	ps, err := proctable.Read(pids)
	out := []workload.Task{}
	for _, p := range ps {
		out = append(out, workload.Task{
			PID: p.PID, PPID: p.PPID, UID: p.UID, State: p.State, Threads: p.Threads, CPUNanoseconds: uint64(p.CPU),
			MemoryBytes: p.RSS, Started: time.Now().Add(-p.Age), Command: p.Command,
		})
	}
	return out, err
}
