package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/bench/record"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/machine/microguest"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/virtio"
)

// Options say what to measure.
type Options struct {
	Successor     []string // starts a process that calls Succeed with descriptor 3
	Dir           string   // for the guest's kernel
	MemoryMiB     int
	CPUs          int
	Iterations    int
	FilledPercent int // of the memory has content
	Progress      func(done, all int, what string)
}

// Sample is one hand-over.
type Sample struct {
	handoff.Report
	FirstNs int64 `json:"firstNs"` // from the pause to the guest's first instruction in the new process
}

// shape is what the successor has to know of the machine.
type shape struct {
	MemoryMiB int `json:"memoryMiB"`
	CPUs      int `json:"cpus"`
}

func (s shape) config() machine.Config {
	return machine.Config{
		CPUs: s.CPUs, MemoryBytes: uint64(s.MemoryMiB) << 20,
		Devices: []machine.Device{
			{Kind: "rng", Args: virtio.Args{ID: "rng0"}},
			{Kind: "vsock", Args: virtio.Args{ID: "vsock"}},
		},
	}
}

// Run measures o.Iterations hand-overs, each from a machine of its own.
func Run(ctx context.Context, o Options) (all []Sample, err error) {
	kernel := filepath.Join(o.Dir, "kernel")
	if err := microguest.Write(kernel, microguest.Spin...); err != nil {
		return nil, err
	}
	defer os.Remove(kernel)
	for n := range o.Iterations {
		if o.Progress != nil {
			o.Progress(n, o.Iterations, fmt.Sprintf("%d MiB", o.MemoryMiB))
		}
		s, err := measure(ctx, o, kernel)
		if err != nil {
			return all, err
		}
		all = append(all, s)
	}
	return all, nil
}

func measure(ctx context.Context, o Options, kernel string) (s Sample, err error) {
	sh := shape{o.MemoryMiB, o.CPUs}
	c := sh.config()
	c.Kernel = kernel
	m, err := machine.New(c)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	defer run(m)()
	fill(m.Regions(), o.FilledPercent)
	await(m)

	here, there, err := handoff.Pair()
	if err != nil {
		return s, err
	}
	defer here.Close()
	cmd := exec.CommandContext(ctx, o.Successor[0], o.Successor[1:]...)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{there}, os.Stderr
	err = cmd.Start()
	_ = there.Close()
	if err != nil {
		return s, err
	}
	kill := func() error { _ = cmd.Process.Kill(); _ = cmd.Wait(); return nil }
	defer kill() //nolint:errcheck // returns nil
	l, err := handoff.NewLink(here)
	if err != nil {
		return s, err
	}
	defer l.Close()
	fd, err := unix.FcntlInt(uintptr(m.MemoryFD()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return s, err
	}
	mem := os.NewFile(uintptr(fd), "memory")
	defer mem.Close()
	d, err := json.Marshal(sh)
	if err != nil {
		return s, err
	}
	var paused time.Time
	s.Report, err = handoff.Give(ctx, l, m, handoff.Offer{Description: d, Files: []handoff.File{{Name: "memory", File: mem}}}, handoff.Options{
		Kill: kill,
		At: func(step string) {
			if step == "pause" {
				paused = time.Now()
			}
		},
	})
	if err != nil {
		return s, err
	}
	if _, err := handoff.Hear(here, time.Minute); err != nil {
		return s, err
	}
	s.FirstNs = time.Since(paused).Nanoseconds()
	return s, nil
}

// Succeed is the other process: it takes the guest over from link, says when that
// has run, and returns when the old process closes the link.
func Succeed(ctx context.Context, link *os.File) (err error) {
	l, err := handoff.NewLink(link)
	if err != nil {
		return err
	}
	defer l.Close()
	var m *machine.Machine
	err = handoff.Take(ctx, l, func(_ context.Context, o handoff.Offer) (handoff.Successor, error) {
		var s shape
		if err := json.Unmarshal(o.Description, &s); err != nil {
			return nil, err
		}
		c := s.config()
		c.Restore = &machine.Restore{Memory: o.Files[0].File, FollowTime: true}
		m, err = machine.New(c)
		if err == nil {
			run(m)
		}
		return m, err
	}, nil)
	if err != nil {
		return err
	}
	await(m)
	if err := handoff.Tell(link, ""); err != nil {
		return err
	}
	_, err = handoff.Hear(link, 0)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// run lets m run; the result ends that.
func run(m *machine.Machine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	return func() { cancel(); <-done }
}

func fill(regions []memory.Region, percent int) {
	for _, r := range regions {
		for p := uint64(1024); p < r.Size/memory.PageSize; p++ {
			if p%100 < uint64(percent) {
				r.Bytes[p*memory.PageSize] = byte(p) | 1
			}
		}
	}
}

// await waits until the guest has counted on.
func await(m *machine.Machine) {
	b := m.Regions()[0].Bytes[microguest.CounterAt:]
	for was := b[0]; b[0] == was; {
		runtime.Gosched()
	}
}

// Result is what a run of the benchmark found.
type Result struct {
	record.Header
	CPUs      int      `json:"cpus"`
	MemoryMiB int      `json:"memoryMiB"`
	Filled    int      `json:"filledPercent"`
	Samples   []Sample `json:"samples"`
}

// Print writes the spread of each figure.
func (r *Result) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "mode %s, %d MiB, %d vCPUs, %d %% of memory with content, %d hand-overs\n", r.Mode, r.MemoryMiB, r.CPUs, r.Filled, len(r.Samples))
	fmt.Fprintln(t, "ms\tleast\tmedian\t95 %\tmost\t")
	for _, f := range []struct {
		name string
		of   func(Sample) int64
	}{
		{"prepared (guest runs)", func(s Sample) int64 { return s.PrepareNs }},
		{"pause", func(s Sample) int64 { return s.PauseNs }},
		{"save", func(s Sample) int64 { return s.SaveNs }},
		{"load", func(s Sample) int64 { return s.LoadNs }},
		{"commit", func(s Sample) int64 { return s.CommitNs }},
		{"stood still", func(s Sample) int64 { return s.BlackoutNs }},
		{"to the first instruction", func(s Sample) int64 { return s.FirstNs }},
	} {
		v := record.Of(r.Samples, func(Sample) bool { return true }, f.of)
		if v.N == 0 {
			continue
		}
		fmt.Fprintf(t, "%s\t", f.name)
		for _, ns := range []int64{v.Min, v.Median, v.P95, v.Max} {
			fmt.Fprintf(t, "%.2f\t", float64(ns)/1e6)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}
