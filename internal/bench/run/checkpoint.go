package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Checkpointer moves a container of hvctl-oci's through files, by CRIU.
type Checkpointer struct {
	Program string // hvctl-oci
	Tree    string // the image's files, a directory
}

// bundle writes a configuration of a program that counts. The container has what
// the benchmark's others have, but for the overlay: its root is read-only.
func (c *Checkpointer) bundle(dir string) error {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	s := specs.Spec{
		Version: "1.0.2", Hostname: "bench", Root: &specs.Root{Path: c.Tree, Readonly: true},
		Process: &specs.Process{Args: beating.Argv, Cwd: "/", Env: []string{"HOME=/"}, Capabilities: &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}}},
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
}

// move checkpoints a container, and restores it.
func (c *Checkpointer) move(ctx context.Context, dir string, m *result.Move) (err error) {
	if err := c.bundle(dir); err != nil {
		return err
	}
	out, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	defer outW.Close()
	id, images := "bench-"+instance.NewID()[:12], filepath.Join(dir, "images")
	run := func(ctx context.Context, verb string, args ...string) error {
		cmd := exec.CommandContext(ctx, c.Program, append([]string{"--root", filepath.Join(dir, "state"), verb}, append(args, id)...)...) //nolint:gosec // ours
		// Not a buffer: it would be a pipe that the container keeps open.
		log, err := os.OpenFile(filepath.Join(dir, verb+".log"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = outW, log
		if err := cmd.Run(); err != nil {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("hvctl-oci %s: %w: %s", verb, err, bytes.TrimSpace(said[:min(len(said), 2000)]))
		}
		return nil
	}
	defer func() { err = errors.Join(err, run(context.WithoutCancel(ctx), "delete", "--force")) }()
	if err := run(ctx, "run", "--detach", "--bundle", dir); err != nil {
		return err
	}
	p := follow(out)
	if _, _, err := p.beyond(ctx, warmBeats); err != nil {
		return err
	}
	begin := time.Now()
	if err := run(ctx, "checkpoint", "--image-path", images); err != nil {
		return err
	}
	before, last := p.latest()
	if err := run(ctx, "restore", "--detach", "--bundle", dir, "--image-path", images); err != nil {
		return err
	}
	t, first, err := p.beyond(ctx, before.N)
	m.TotalNs, m.StillNs, m.Kept = time.Since(begin).Nanoseconds(), first.Sub(last).Nanoseconds(), t.N > before.N
	m.Bytes = treeSize(images)
	return err
}

// treeSize is the size of all files below dir.
func treeSize(dir string) (n uint64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if st, err := d.Info(); err == nil {
			n += uint64(st.Size())
		}
		return nil
	})
	return n
}
