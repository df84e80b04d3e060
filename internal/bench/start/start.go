package start

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what to measure.
type Options struct {
	Runtimes   []string // programs, by name in PATH or by path
	Busybox    string   // a static busybox; empty: the one in PATH
	Iterations int
	Progress   func(done, all int)
}

// The scenarios.
const (
	Lifecycle = "lifecycle" // create, start, wait for the end, delete
	Run       = "run"
	Exec      = "exec"
)

var scenarios = []string{Lifecycle, Run, Exec}

// Stage is one part of a scenario.
type Stage struct {
	Name string `json:"name"`
	Ns   int64  `json:"ns"`
}

// Sample is one scenario once.
type Sample struct {
	Target    string  `json:"target"` // the runtime
	Scenario  string  `json:"scenario"`
	Iteration int     `json:"iteration"`
	TotalNs   int64   `json:"totalNs"`
	CPUNs     int64   `json:"cpuNs"`   // of the runtime's processes, and of the container's
	WaitKiB   int64   `json:"waitKiB"` // resident size of a container that waits to be started
	Stages    []Stage `json:"stages,omitempty"`
	Error     string  `json:"error,omitempty"`
}

// runtime is one program that is measured.
type runtime struct {
	name, path, root string
	bundle           string // runs /bin/true
	sleeper          string // container that exec goes into
	errors           string // file for its standard error
}

// Measure measures, into r. It makes the calling process a subreaper, to wait
// for the containers' processes. A sample that failed is kept with its error.
func Measure(ctx context.Context, o Options, r *Result) error {
	dir, err := os.MkdirTemp("", "hvbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("PR_SET_CHILD_SUBREAPER", err)
	}
	bundle, sleep, err := bundles(dir, o.Busybox)
	if err != nil {
		return err
	}
	var all []*runtime
	for _, name := range o.Runtimes {
		rt, err := newRuntime(dir, name, bundle)
		if err != nil {
			return err
		}
		if err := rt.startSleeper(sleep); err != nil {
			return fmt.Errorf("%s: start a container to exec in: %w", rt.name, err)
		}
		defer rt.stopSleeper()
		all = append(all, rt)
		m := Memory{Target: rt.name, Version: rt.version()}
		if m.PeakKiB, err = rt.peak(); err != nil {
			return fmt.Errorf("%s: %w", rt.name, err)
		}
		r.Runtimes = append(r.Runtimes, m)
	}
	if len(all) == 0 {
		return errors.New("nothing to measure: no runtime given")
	}
	for i := range o.Iterations {
		order := slices.Clone(all)
		if i%2 == 1 { // A B, B A, ...: a drift hits all alike
			slices.Reverse(order)
		}
		if o.Progress != nil {
			o.Progress(i, o.Iterations)
		}
		for _, scenario := range scenarios {
			for _, rt := range order {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				s := Sample{Target: rt.name, Scenario: scenario, Iteration: i}
				if err := rt.measure(&s); err != nil {
					s.Error = err.Error()
				}
				r.Samples = append(r.Samples, s)
			}
		}
	}
	return nil
}

func newRuntime(dir, name, bundle string) (*runtime, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	r := &runtime{name: filepath.Base(name), path: path, bundle: bundle}
	r.root, r.errors = filepath.Join(dir, r.name+".state"), filepath.Join(dir, r.name+".err")
	r.sleeper = fmt.Sprintf("hvbench-%d-sleeper-%s", os.Getpid(), r.name)
	return r, nil
}

// version is the first line of what the program says of itself.
func (r *runtime) version() string {
	out, err := exec.Command(r.path, "--version").Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

func (r *runtime) startSleeper(bundle string) error {
	var s Sample
	return r.call(&s, "", "run", "--detach", "--bundle", bundle, r.sleeper)
}

func (r *runtime) stopSleeper() {
	var s Sample
	_ = r.call(&s, "", "delete", "--force", r.sleeper) // the state root goes, too
	reapOrphans()
}

func (r *runtime) measure(s *Sample) error {
	id := fmt.Sprintf("hvbench-%d-%s", os.Getpid(), r.name)
	begin := time.Now()
	var err error
	switch s.Scenario {
	case Lifecycle:
		err = r.lifecycle(s, id)
	case Run:
		err = r.call(s, "", "run", "--bundle", r.bundle, id)
	case Exec:
		err = r.call(s, "", "exec", r.sleeper, "/bin/true")
	}
	if s.TotalNs == 0 {
		s.TotalNs = time.Since(begin).Nanoseconds()
	}
	if err != nil {
		var dropped Sample
		_ = r.call(&dropped, "", "delete", "--force", id) // whatever is left of it
	}
	return err
}

// lifecycle is what an engine does. That the waiting container's memory is
// read in between does not count.
func (r *runtime) lifecycle(s *Sample, id string) error {
	pidFile := filepath.Join(filepath.Dir(r.root), r.name+".pid")
	if err := r.call(s, "create", "create", "--bundle", r.bundle, "--pid-file", pidFile, id); err != nil {
		return err
	}
	pid, err := readPID(pidFile)
	if err != nil {
		return err
	}
	s.WaitKiB = residentKiB(pid)
	if err := r.call(s, "start", "start", id); err != nil {
		return err
	}
	begin := time.Now()
	var st unix.WaitStatus
	var ru unix.Rusage
	for {
		if _, err := unix.Wait4(pid, &st, 0, &ru); err == nil {
			break
		} else if err != unix.EINTR {
			return fmt.Errorf("wait for the container: %w", err)
		}
	}
	s.Stages = append(s.Stages, Stage{"wait", time.Since(begin).Nanoseconds()})
	s.CPUNs += ru.Utime.Nano() + ru.Stime.Nano()
	if st.ExitStatus() != 0 {
		return fmt.Errorf("the container ended with %v", st)
	}
	if err := r.call(s, "delete", "delete", id); err != nil {
		return err
	}
	for _, st := range s.Stages {
		s.TotalNs += st.Ns
	}
	return nil
}

// call runs one command of the runtime; stage "" is not kept apart.
func (r *runtime) call(s *Sample, stage string, args ...string) error {
	log, err := os.Create(r.errors)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(r.path, append([]string{"--root", r.root}, args...)...)
	cmd.Stderr = log
	begin := time.Now()
	err = cmd.Run()
	took := time.Since(begin)
	if p := cmd.ProcessState; p != nil {
		s.CPUNs += (p.UserTime() + p.SystemTime()).Nanoseconds()
	}
	if stage != "" {
		s.Stages = append(s.Stages, Stage{stage, took.Nanoseconds()})
	}
	if err != nil {
		text, _ := os.ReadFile(r.errors)
		return fmt.Errorf("%s %s: %w: %s", r.name, args[0], err, strings.TrimSpace(string(text)))
	}
	return nil
}
