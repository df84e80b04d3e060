package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/machine/microguest"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/snapshot"
	"github.com/hvctl/hvctl/virtio"
)

// Options say what to measure.
type Options struct {
	Dir        string // for the snapshot files; what kind of file system it is on matters
	MemoryMiB  []int
	CPUs       int
	Iterations int
	// FilledPercent of the memory has content; the rest is zero.
	FilledPercent int
	Progress      func(done, all int, what string)
}

// Sample is one snapshot and one restore each way, in nanoseconds.
type Sample struct {
	MemoryMiB   int    `json:"memoryMiB"`
	StoredPages uint64 `json:"storedPages"`
	StateBytes  int    `json:"stateBytes"`

	SaveNs int64 `json:"saveNs"` // state of the paused machine
	LoadNs int64 `json:"loadNs"` // the same into a new machine

	PauseNs int64 `json:"pauseNs"` // of a running guest, by a snapshot
	WriteNs int64 `json:"writeNs"` // until that snapshot was on disk

	MapNs     int64 `json:"mapNs"`     // from the file's name to the first instruction of a mapped guest
	MapOpenNs int64 `json:"mapOpenNs"` // of that: head, tables and state read and checked
	MapNewNs  int64 `json:"mapNewNs"`  // the machine built
	MapLoadNs int64 `json:"mapLoadNs"` // the state loaded
	MapRunNs  int64 `json:"mapRunNs"`  // until the first instruction
	CopyNs    int64 `json:"copyNs"`    // as MapNs, with all memory read and checked first
}

// Run measures every memory size.
func Run(ctx context.Context, o Options) ([]Sample, error) {
	kernel := filepath.Join(o.Dir, "kernel")
	if err := microguest.Write(kernel, microguest.Spin...); err != nil {
		return nil, err
	}
	defer os.Remove(kernel)
	var all []Sample
	for i, mib := range o.MemoryMiB {
		for n := range o.Iterations {
			if err := context.Cause(ctx); err != nil {
				return all, err
			}
			if o.Progress != nil {
				o.Progress(i*o.Iterations+n, len(o.MemoryMiB)*o.Iterations, fmt.Sprintf("%d MiB", mib))
			}
			s, err := measure(ctx, o, kernel, mib)
			if err != nil {
				return all, fmt.Errorf("%d MiB: %w", mib, err)
			}
			all = append(all, s)
		}
	}
	return all, nil
}

func config(o Options, mib int) machine.Config {
	return machine.Config{
		CPUs: o.CPUs, MemoryBytes: uint64(mib) << 20,
		Devices: []machine.Device{
			{Kind: "rng", Args: virtio.Args{ID: "rng0"}},
			{Kind: "vsock", Args: virtio.Args{ID: "vsock"}},
		},
	}
}

// running is a machine with its Run.
type running struct {
	*machine.Machine
	stop func()
}

func start(m *machine.Machine) *running {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	return &running{m, func() { cancel(); <-done }}
}

func (r *running) close(err *error) {
	r.stop()
	*err = errors.Join(*err, r.Close())
}

func measure(ctx context.Context, o Options, kernel string, mib int) (s Sample, err error) {
	s.MemoryMiB = mib
	c := config(o, mib)
	c.Kernel = kernel
	m, err := machine.New(c)
	if err != nil {
		return s, err
	}
	r := start(m)
	defer r.close(&err)
	fill(m.Regions(), o.FilledPercent)
	await(m, 0)
	file := filepath.Join(o.Dir, "snapshot")
	defer os.Remove(file)
	if err := take(ctx, m, file, &s); err != nil {
		return s, err
	}
	if err := m.Pause(ctx); err != nil { // out of the way of the restored ones
		return s, err
	}
	for _, mapped := range []bool{true, false} {
		if err := restore(ctx, o, file, mapped, &s); err != nil {
			return s, err
		}
	}
	return s, nil
}

// fill gives some pages content, spread over all of the memory beyond the
// kernel.
func fill(regions []memory.Region, percent int) {
	for _, r := range regions {
		for p := uint64(1024); p < r.Size/memory.PageSize; p++ {
			if p%100 < uint64(percent) {
				r.Bytes[p*memory.PageSize] = byte(p) | 1
			}
		}
	}
}

// await waits until the guest has counted on from n.
func await(m *machine.Machine, n byte) {
	b := m.Regions()[0].Bytes[microguest.CounterAt:]
	for counter(b) == n {
		runtime.Gosched()
	}
}

// counter reads the count's lowest byte; whether it has moved is all that is
// asked.
func counter(b []byte) byte { return b[0] }

// take makes a snapshot of the running guest as an owner does.
func take(ctx context.Context, m *machine.Machine, file string, s *Sample) error {
	began := time.Now()
	if err := m.StartDirtyLog(); err != nil {
		return err
	}
	var paused time.Time
	w, err := snapshot.Write(ctx, file, snapshot.Content{
		Regions: m.Regions(), MemoryFD: m.MemoryFD(), Description: []byte("{}"),
		Live: &snapshot.Live{
			Stop: func() (dirty [][]uint64, sections []state.Section, err error) {
				paused = time.Now()
				if err := m.Pause(ctx); err != nil {
					return nil, nil, err
				}
				at := time.Now()
				if sections, err = m.SaveState(); err != nil {
					return nil, nil, err
				}
				s.SaveNs = time.Since(at).Nanoseconds()
				for _, sec := range sections {
					s.StateBytes += len(sec.Payload)
				}
				for i, r := range m.Regions() {
					words := make([]uint64, (r.Size/memory.PageSize+63)/64)
					if err := m.FetchDirty(i, words); err != nil {
						return nil, nil, err
					}
					dirty = append(dirty, words)
				}
				return dirty, sections, nil
			},
			Copied: func() {
				_ = m.Resume(ctx) // the pause is over either way
				s.PauseNs = time.Since(paused).Nanoseconds()
			},
		},
	}, snapshot.Options{})
	s.WriteNs, s.StoredPages = time.Since(began).Nanoseconds(), w.StoredPages
	return errors.Join(err, m.StopDirtyLog())
}

// restore goes from the file's name to the first instruction.
func restore(ctx context.Context, o Options, file string, mapped bool, s *Sample) (err error) {
	began := time.Now()
	f, err := snapshot.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	opened := time.Now()
	c := config(o, s.MemoryMiB)
	c.Restore = &machine.Restore{}
	if mapped {
		c.Restore.RAM = &memory.Image{File: f.File()}
		for _, r := range f.Regions() {
			c.Restore.RAM.Offsets = append(c.Restore.RAM.Offsets, r.Offset)
		}
	}
	m, err := machine.New(c)
	if err != nil {
		return err
	}
	built := time.Now()
	if !mapped {
		if err := f.ReadInto(ctx, m.Regions(), snapshot.Options{}); err != nil {
			return errors.Join(err, m.Close())
		}
	}
	read := time.Now()
	if err := m.LoadState(f.Sections()); err != nil {
		return errors.Join(err, m.Close())
	}
	loaded := time.Now()
	was := counter(m.Regions()[0].Bytes[microguest.CounterAt:])
	r := start(m)
	defer r.close(&err)
	if err := m.Resume(ctx); err != nil {
		return err
	}
	await(m, was)
	end := time.Now()
	if !mapped {
		s.CopyNs = end.Sub(began).Nanoseconds()
		return nil
	}
	s.MapNs, s.MapOpenNs, s.MapNewNs = end.Sub(began).Nanoseconds(), opened.Sub(began).Nanoseconds(), built.Sub(opened).Nanoseconds()
	s.LoadNs = loaded.Sub(read).Nanoseconds()
	s.MapLoadNs, s.MapRunNs = s.LoadNs, end.Sub(loaded).Nanoseconds()
	return nil
}
