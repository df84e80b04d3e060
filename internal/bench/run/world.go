package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// World is a target: a place where instances are made.
type World interface {
	Name() string
	// Start runs a program in a fresh instance of the image.
	Start(ctx context.Context, j Job) (*Living, error)
}

// Job is a program in an instance, and what the instance is to be.
type Job struct {
	Argv []string
	User string // UID:GID; empty: root
	Cwd  string // empty: /
	// Res has limits in place of the run's own; zero fields are the run's.
	Res workload.Resources
	// Disk is a block device that the program may overwrite; it stands as DiskArg in
	// Argv.
	Disk *Device
	// Net connects the instance with the bridge and holds it to that; nil: loopback
	// only. The host's own network has no limits.
	Net *workload.NetLimit
	// Cold takes the files that the instance needs out of the host's page cache
	// first. Where they are in memory only, starting fails with errInMemory.
	Cold bool
}

// Living is an instance whose program was started.
type Living struct {
	ID             string
	CreateNs       int64 // until it could be started
	StartNs        int64 // until its first process existed
	In             io.WriteCloser
	Out            io.Reader // of the program, both its outputs
	usage          func(ctx context.Context) (Usage, error)
	signal         func(ctx context.Context, sig unix.Signal) error
	pids           func() []int                  // processes on the host that are the instance and its owner
	wait           func() (workload.Exit, error) // after Out has ended
	remove         func(ctx context.Context) error
	begin, running time.Time
	handle         *launch.Handle // of a Backend's
}

// Usage is what the instance has cost so far.
type Usage struct {
	CPUNs       uint64
	MemoryBytes uint64 // charged to its group
	OOMKills    uint64
	Exits       map[string]uint64 // of a VM, by reason
}

// Backend is a World whose instances are a workload.Backend's.
type Backend struct {
	Backend   workload.Backend
	Instances *instance.Store
	// Config makes the configuration of a new instance.
	Config func(Job) (*workload.Config, error)
}

// Name implements World.
func (b *Backend) Name() string { return b.Backend.Name() }

// Start implements World.
func (b *Backend) Start(ctx context.Context, j Job) (*Living, error) {
	begin := time.Now()
	cfg, err := b.Config(j)
	if err != nil {
		return nil, err
	}
	cfg.Backend = b.Backend.Name()
	give(cfg, j)
	if err := b.Backend.Prepare(ctx, cfg); err != nil {
		return nil, err
	}
	if j.Cold { // preparing has read the files: a cold start is timed from here
		if err := b.chill(cfg); err != nil {
			return nil, err
		}
		begin = time.Now()
	}
	return b.launch(ctx, cfg, begin)
}

// chill takes the files that cfg needs out of the host's memory.
func (b *Backend) chill(cfg *workload.Config) error {
	owner, err := b.Backend.Command()
	if err != nil {
		return err
	}
	return chill([]string{owner[0], cfg.Rootfs.ImagePath, cfg.VM.Kernel, cfg.VM.Initrd})
}

// launch makes an instance of cfg, which is prepared or needs no preparation, and
// starts it.
func (b *Backend) launch(ctx context.Context, cfg *workload.Config, begin time.Time) (*Living, error) {
	l := &Living{begin: begin}
	cfg.Backend, cfg.OpenStdin = b.Backend.Name(), true
	i, err := b.Instances.Create(cfg, instance.CreateOptions{})
	if err != nil {
		return nil, err
	}
	l.ID, l.CreateNs = i.ID(), time.Since(l.begin).Nanoseconds()
	h := launch.NewHandle(i, b.Backend)
	r, err := launch.Start(ctx, b.Backend, i, launch.Options{Attach: true, StdinOnce: true})
	if err != nil {
		if derr := h.Delete(context.WithoutCancel(ctx)); derr != nil && !errors.Is(derr, workload.ErrNotFound) {
			err = fmt.Errorf("%w (and %w)", err, derr)
		}
		return nil, err
	}
	l.running = time.Now()
	l.StartNs = l.running.Sub(l.begin).Nanoseconds() - l.CreateNs
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	l.In, l.Out = inW, outR
	type end struct {
		exit workload.Exit
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		exit, err := r.Stream.Copy(inR, outW, outW)
		_ = inR.Close()
		_ = outW.Close()
		ended <- end{exit, err}
	}()
	l.usage = func(ctx context.Context) (Usage, error) {
		st, err := h.Stats(ctx)
		if err != nil {
			return Usage{}, err
		}
		u := Usage{CPUNs: st.CPUNanoseconds, Exits: map[string]uint64{}}
		if st.Cgroup != nil {
			u.CPUNs, u.MemoryBytes, u.OOMKills = st.Cgroup.CPUNanoseconds, st.Cgroup.MemoryBytes, st.Cgroup.OOMKills
		}
		for _, reason := range []string{"pio", "mmio", "intr", "other"} {
			if n, ok := st.Counters["exit_"+reason+"_total"]; ok {
				u.Exits[reason] = n
			}
		}
		return u, nil
	}
	l.wait = func() (workload.Exit, error) {
		e := <-ended
		r.WaitOwner(10 * time.Second)
		return e.exit, e.err
	}
	l.remove = h.ForceDelete
	l.signal = h.Signal
	l.handle = h
	l.pids = func() []int {
		st, err := h.Instance.State()
		if err != nil || st.PID == 0 {
			return nil
		}
		return family(st.PID)
	}
	return l, nil
}
