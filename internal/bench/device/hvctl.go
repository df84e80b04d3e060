package device

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/device/probe"
	"github.com/hvctl/hvctl/internal/initrd"
	"github.com/hvctl/hvctl/internal/workload"
)

// cmdlineOf starts the probe; the time of the serial console is outside of what
// is measured.
func cmdlineOf(o Options, s Subject) string {
	return strings.TrimSpace("console=ttyS0 quiet panic=-1 reboot=k tsc=reliable " + probe.TestsKey + "=" + o.Tests + " " + s.cmdline)
}

// buildInitrd makes the initramfs with the probe as the first process.
func buildInitrd(o Options) (string, error) {
	f, err := os.Create(filepath.Join(o.Root, "probe.cpio"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	return f.Name(), initrd.Build(f, initrd.Options{Hvinit: o.Probe})
}

// instanceName is what the benchmark's one VM is called.
const instanceName = "bench"

// hvctlTarget is `hvctl boot`.
type hvctlTarget struct {
	o                 Options
	s                 Subject
	initrd, transport string
	variant           variant
}

func (t *hvctlTarget) name() string { return named("hvctl/"+t.transport, t.variant) }

func named(target string, v variant) string { return strings.TrimSuffix(target+","+v.name, ",") }

func (t *hvctlTarget) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, t.o.Hvctl, append([]string{"--root", filepath.Join(t.o.Root, "run"), "--store", t.o.Store}, args...)...)
}

func (t *hvctlTarget) run(ctx context.Context) (samples []Sample, err error) {
	c := t.command(ctx, append([]string{
		"boot", "--name", instanceName, "--kernel", t.o.Kernel, "--initrd", t.initrd, "--cmdline", cmdlineOf(t.o, t.s),
		"--memory", fmt.Sprintf("%dM", t.o.MemoryMiB), "--transport", t.transport,
	}, t.variant.args(t.transport)...)...)
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		rm := t.command(context.WithoutCancel(ctx), "rm", "-f", instanceName)
		if msg, rerr := rm.CombinedOutput(); rerr != nil && err == nil {
			err = fmt.Errorf("remove the instance: %w: %s", rerr, msg)
		}
		if err != nil && stderr.Len() > 0 {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
		}
	}()
	var pid int
	return follow(out, t.s.tests(t.o.Tests), func() (counters, error) {
		if pid == 0 {
			if pid, err = t.owner(); err != nil {
				return counters{}, err
			}
		}
		return take(pid)
	})
}

// owner returns the process of the one instance under the root.
func (t *hvctlTarget) owner() (int, error) {
	m, err := filepath.Glob(filepath.Join(t.o.Root, "run", "*", "state.json"))
	if err != nil || len(m) != 1 {
		return 0, fmt.Errorf("%d instances under %s, want the benchmark's one", len(m), t.o.Root)
	}
	b, err := os.ReadFile(m[0])
	if err != nil {
		return 0, err
	}
	var st workload.State
	if err := json.Unmarshal(b, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", m[0], err)
	}
	return st.PID, nil
}
