package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

// restore is Start for a VM that goes on from a snapshot, as a copy with an
// identity of its own: generation ID, random numbers, addresses, name and clock.
// It returns when the copy's agent has taken them on.
func (v *VM) restore(ctx context.Context, io workload.Stdio) (workload.Process, error) {
	if v.cfg.VM.Raw {
		return nil, fmt.Errorf("%w: restore of a guest without hvctl's agent", workload.ErrUnsupported)
	}
	if err := v.rebuild(ctx, io); err != nil {
		return nil, err
	}
	v.times.mark("restored")
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := v.enter(); err != nil {
		return nil, err
	}
	g, err := v.converse()
	if err != nil {
		return nil, err
	}
	if err := g.machine.Resume(ctx); err != nil {
		return nil, v.explain(g, notRunning(err))
	}
	v.times.mark("resumed")
	p, err := v.take(ctx, g, io, func(ctx context.Context, s *agent.Session) error {
		return s.Identify(ctx, v.cfg.Spec.Hostname, v.network())
	})
	if err != nil {
		return nil, v.explain(g, err)
	}
	v.begun = true
	return p, nil
}

// rebuild makes the machine and loads the snapshot into it.
func (v *VM) rebuild(ctx context.Context, io workload.Stdio) error {
	r := v.cfg.VM.Restore
	chain, err := openChain(append([]string{r.File}, r.Bases...))
	if err != nil {
		return err
	}
	defer func() { _ = chain.Close() }() // a mapping stays without it
	s := chain.Top()
	grows := v.cfg.VM.MaxMemoryBytes > 0
	whole := r.Copy || !chain.Full() || grows // differences cannot be mapped, nor what is mapped twice
	if r.Lazy && grows {
		return fmt.Errorf("%w: restore --lazy: %w", workload.ErrUnsupported, errGrows)
	}
	if r.Lazy && whole {
		return fmt.Errorf("%w: snapshot %s holds only what changed since another one, and is not restored lazily; `hvctl snapshot merge` makes it whole", workload.ErrUnsupported, r.File)
	}
	d, err := v.description(s)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", r.File, err)
	}
	if err := v.ownDisks(ctx, d, filepath.Dir(r.File)); err != nil {
		return err
	}
	c, err := v.surround(ctx, io)
	if err != nil {
		return err
	}
	c.Restore = &machine.Restore{}
	if !whole && !r.Lazy {
		c.Restore.RAM = &memory.Image{File: s.File()}
		for _, region := range s.Regions() {
			c.Restore.RAM.Offsets = append(c.Restore.RAM.Offsets, region.Offset)
		}
	}
	if v.machine, err = machine.New(c); err != nil {
		return err
	}
	if r.Lazy {
		if err := v.fillLazily(s); err != nil {
			return err
		}
		v.times.mark("fault handler")
	}
	if whole {
		if err := chain.ReadInto(ctx, v.machine.Regions(), snapshot.Options{}); err != nil {
			return err
		}
		v.times.mark("memory read")
	}
	if err := v.machine.LoadState(s.Sections()); err != nil {
		return fmt.Errorf("snapshot %s: %w", r.File, err)
	}
	return v.machine.NewGeneration()
}

// description reads what a snapshot says, and refuses one of a guest that has
// another root file system below it than the one that is there now.
func (v *VM) description(s *snapshot.Snapshot) (workload.Description, error) {
	d, err := workload.ParseDescription(s.Description())
	if err != nil {
		return d, err
	}
	return d, checkRootfs(v.cfg, d.Rootfs)
}

// checkRootfs refuses a root file system that is not the one the guest was using.
func checkRootfs(cfg *workload.Config, want workload.FileMark) error {
	path := cfg.Rootfs.ImagePath
	now, err := workload.MarkFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("its root file system %s is not here: pull or import %s first", path, cfg.Image.Ref)
	}
	if err == nil && now != want {
		err = fmt.Errorf("its root file system %s is not the one the guest was using", path)
	}
	return err
}

// ownDisks gives the copy disks of its own: those that the guest writes to are
// copied from the snapshot's directory to where the configuration says they are.
func (v *VM) ownDisks(ctx context.Context, d workload.Description, dir string) error {
	if err := overlaid(v.cfg.VM.Disks); err != nil {
		return err
	}
	if len(d.Disks) != len(v.cfg.VM.Disks) {
		return fmt.Errorf("the snapshot has %d disks, the configuration %d", len(d.Disks), len(v.cfg.VM.Disks))
	}
	for i, disk := range d.Disks {
		if disk.Name == "" {
			continue
		}
		from, to := filepath.Join(dir, filepath.Base(disk.Name)), v.cfg.VM.Disks[i].Path
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if _, err := copyFile(ctx, to, from); err != nil {
			return fmt.Errorf("copy of disk %s: %w", from, err)
		}
	}
	return nil
}

// errNotRunning is why a snapshot cannot be restored as an instance.
var errNotRunning = errors.New("the snapshot's guest has no workload running")

// take becomes the host of a guest that runs already, and first tells its agent
// who it is.
func (v *VM) take(ctx context.Context, g *guest, io workload.Stdio, tell func(context.Context, *agent.Session) error) (workload.Process, error) {
	ctx, over := v.untilEnded(ctx, g)
	defer over(nil)
	hello, err := v.ready(ctx, g)
	if err != nil {
		return nil, err
	}
	v.times.mark("guest agent")
	if !hello.Running {
		return nil, errNotRunning
	}
	if err := tell(ctx, g.session); err != nil {
		return nil, fmt.Errorf("tell the guest who and when it is: %w", cause(ctx, err))
	}
	v.times.mark("identity")
	p, err := g.session.Attach(ctx, firstProcess, agent.IO{Stdin: io.In, Stdout: io.Out, Stderr: io.Err})
	if err != nil {
		return nil, cause(ctx, err)
	}
	v.times.mark("workload taken over")
	return &process{p: p, vm: v, guest: g}, nil
}
