package boot

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/workload"
)

// hvctlTarget is `hvctl run`, as a user would type it.
type hvctlTarget struct {
	o         Options
	transport string
	config    workload.Config // of the last run, for the peer
}

func (t *hvctlTarget) name() string { return "hvctl/" + t.transport }

// benchName is the instance's; it is removed after each run.
const benchName = "bench-boot"

func (t *hvctlTarget) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, t.o.Hvctl, append([]string{"--root", t.o.Root, "--store", t.o.Store}, args...)...)
	return c
}

func (t *hvctlTarget) run(ctx context.Context) (s Sample, err error) {
	args := append([]string{
		"run", "-i", "--timeline", "--name", benchName, "--network", "none", "--pull", "never", "--transport", t.transport,
		"--kernel", t.o.Kernel, "--cpus", fmt.Sprint(t.o.CPUs), "--memory", fmt.Sprintf("%dM", t.o.MemoryMiB), t.o.Image,
	}, script...)
	c := t.command(ctx, args...)
	in, err := c.StdinPipe()
	if err != nil {
		return s, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return s, err
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	start := workload.Monotonic()
	if err := c.Start(); err != nil {
		return s, err
	}
	defer func() { // the instance is left for its timeline; take it away
		rm := t.command(context.WithoutCancel(ctx), "rm", "-f", benchName)
		if msg, rerr := rm.CombinedOutput(); rerr != nil && err == nil {
			err = fmt.Errorf("remove the instance: %w: %s", rerr, msg)
		}
	}()
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		_ = in.Close()
		_ = c.Wait() // its message says more
		return s, fmt.Errorf("no output: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	s.TotalNs = workload.Monotonic() - start
	dir, err := t.find()
	if err != nil {
		return s, err
	}
	var st workload.State
	if err := readJSON(filepath.Join(dir, "state.json"), &st); err != nil {
		return s, err
	}
	if s.PSSBytes, err = pssBeyondRAM(st.PID, "memfd:guest-ram"); err != nil {
		return s, err
	}
	_ = in.Close()
	if err := c.Wait(); err != nil {
		return s, fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	if err := readJSON(filepath.Join(dir, "config.json"), &t.config); err != nil {
		return s, err
	}
	return s, s.stages(filepath.Join(dir, workload.TimelineFile), start)
}

// find returns the directory of the one instance under the root.
func (t *hvctlTarget) find() (string, error) {
	m, err := filepath.Glob(filepath.Join(t.o.Root, "*", "config.json"))
	if err != nil || len(m) != 1 {
		return "", fmt.Errorf("%d instances under %s, want the benchmark's one", len(m), t.o.Root)
	}
	return filepath.Dir(m[0]), nil
}

// stages reads the owner's marks and makes them relative to start.
func (s *Sample) stages(file string, start int64) error {
	var marks []workload.Stage
	if err := readJSON(file, &marks); err != nil {
		return err
	}
	for _, m := range marks {
		if m.Guest {
			s.InitNs = m.AtNs
			continue
		}
		s.Stages = append(s.Stages, Stage{m.Name, m.AtNs - start})
	}
	s.Stages = append(s.Stages, Stage{"first byte", s.TotalNs})
	return nil
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
