package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/bench/result"
	"golang.org/x/sys/unix"
)

// start is one way to begin an instance's life.
type start struct {
	prefix string
	job    Job
}

// starts measures lives of instances whose program says one word and waits: warm,
// and cold, with nothing of the instance's files in the host's memory.
func starts(ctx context.Context, o Options, r *result.Result) error {
	type turn struct {
		name string
		w    World
	}
	turns := []turn{{r.Plan.Copy, o.Worlds[0]}}
	for _, w := range o.Worlds {
		turns = append(turns, turn{w.Name(), w})
	}
	argv := []string{Program, "catch"}
	ways := []start{{"", Job{Argv: argv}}, {"cold-", Job{Argv: argv, Cold: true}}}
	all, done := (o.Starts+1)*len(turns)*len(ways), 0
	began := time.Now()
	for block := range o.Starts + 1 {
		before := readPressure()
		for pos, t := range turns {
			for _, way := range ways {
				var left time.Duration
				if done > 0 {
					left = time.Since(began) / time.Duration(done) * time.Duration(all-done)
				}
				o.Progress(done, all, "lifecycle: "+way.prefix+t.name, left)
				at := result.Sample{Chapter: "lifecycle", Target: t.name, Block: block, Pos: pos, Warmup: block == 0}
				samples, err := live(ctx, t.w, way, at)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if errors.Is(err, errInMemory) {
					r.Env["coldStarts"] = "none: " + err.Error()
					done++
					continue
				}
				if err != nil {
					at.Probe, at.Error = way.prefix+"total", err.Error()
					samples = append(samples, at)
				}
				r.Samples = append(r.Samples, samples...)
				done++
			}
		}
		slices.Reverse(turns)
		r.Machine = append(r.Machine, before.until(readPressure(), "lifecycle", block))
		if err := o.Save(); err != nil {
			return err
		}
	}
	return nil
}

// live is one life: create, start, first output, a signal to its end, delete.
func live(ctx context.Context, w World, way start, at result.Sample) (out []result.Sample, err error) {
	s, err := open(ctx, w, way.job)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	at.Instance = s.ID[:12]
	add := func(probe string, d time.Duration) {
		at.Probe, at.Value = way.prefix+probe, float64(d.Nanoseconds())
		out = append(out, at)
	}
	if err := s.ready(); err != nil {
		return nil, err
	}
	add("create", time.Duration(s.CreateNs))
	add("start", time.Duration(s.StartNs))
	add("first", time.Since(s.running))
	add("total", time.Since(s.begin))
	begin := time.Now()
	if err := s.signal(ctx, unix.SIGTERM); err != nil {
		return out, err
	}
	if _, err := s.rest(); err != nil {
		return out, err
	}
	exit, err := s.end()
	if err != nil {
		return out, err
	}
	if exit.Code != 3 {
		return out, fmt.Errorf("%s: ended with %d %s, want 3", w.Name(), exit.Code, exit.Err)
	}
	add("end", time.Since(begin))
	begin = time.Now()
	if err := s.close(); err != nil {
		return out, err
	}
	add("delete", time.Since(begin))
	return out, nil
}

// errInMemory means files that are nowhere but in memory.
var errInMemory = errors.New("its files are in memory")

// chill takes files out of the host's page cache, as far as nobody uses them.
func chill(files []string) error {
	for _, name := range files {
		if name == "" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = chillFile(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func chillFile(f *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return errInMemory
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // what is dirty would stay
		return err
	}
	return os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}
