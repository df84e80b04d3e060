package work

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/nscontainer"
)

// OCI runs the command by an OCI runtime that is installed, from a bundle with the
// configuration that our own containers have, over the same files. Needs root.
type OCI struct {
	Runtime string // "runc", "crun", "hvctl-oci", or a path
	Tree    string // the image's files
	Dir     string // for bundles and mounts
}

// Look returns why there is no such runtime here.
func (o *OCI) Look() error {
	if _, err := exec.LookPath(o.Runtime); err != nil {
		return fmt.Errorf("%s is not installed (%w): install Debian's package of that name, or leave the target out", o.Name(), err)
	}
	return nil
}

// Name implements Target.
func (o *OCI) Name() string { return filepath.Base(o.Runtime) }

// ociVersion is what every peer knows.
const ociVersion = "1.0.2"

// Run implements Target.
func (o *OCI) Run(ctx context.Context, j Job) (e Ended, err error) {
	cfg, err := j.Config()
	if err != nil {
		return e, err
	}
	e.ID = cfg.ID
	clk := newClock()
	a, err := openAccount(cfg.ID)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	bundle := filepath.Join(o.Dir, cfg.ID[:12])
	r, err := mountRoot(o.Tree, bundle)
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, r.drop()) }()
	cfg.Backend, cfg.Res.CgroupParent = o.Name(), a.path
	who, err := creds(r.Path(), cfg.Spec.Process)
	if err != nil {
		return e, err
	}
	spec := nscontainer.Spec(cfg, r.Path(), who)
	spec.Version = ociVersion
	b, err := json.Marshal(spec)
	if err != nil {
		return e, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600); err != nil {
		return e, err
	}
	state := filepath.Join(bundle, "state")
	command := func(args ...string) *exec.Cmd {
		return exec.Command(o.Runtime, append([]string{"--root", state}, args...)...)
	}
	c := command("run", "--bundle", bundle, cfg.ID)
	var words tail
	c.Stdout, c.Stderr = j.Stdout, both{orDiscard(j.Stderr), &words}
	if err := start(c, a.owner); err != nil {
		return e, err
	}
	always := context.WithoutCancel(ctx)
	defer context.AfterFunc(ctx, func() { _ = a.group.Kill(always) })()
	if err := c.Wait(); err != nil && c.ProcessState == nil {
		return e, err
	}
	e.Exit = exitOf(c.ProcessState)
	clk.started = clk.begin // `run` does not tell when its program began
	clk.fill(&e)
	if ctx.Err() != nil {
		_ = command("delete", "--force", cfg.ID).Run() // what it was killed in the middle of
		return e, context.Cause(ctx)
	}
	if _, err := os.Stat(filepath.Join(state, cfg.ID)); err == nil {
		_ = command("delete", "--force", cfg.ID).Run()
		return e, fmt.Errorf("%s left the container: %s", o.Name(), words.String())
	}
	if e.Exit.Code != 0 && words.has("level=error", "level=fatal", o.Name()+": ") {
		e.Exit.Err = words.String()
	}
	return e, a.fill(&e)
}

// both writes to two writers.
type both [2]interface{ Write(p []byte) (int, error) }

func (b both) Write(p []byte) (int, error) {
	_, _ = b[1].Write(p)
	return b[0].Write(p)
}

// tail keeps the end of what was written.
type tail struct{ b []byte }

const tailBytes = 1000

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b); n > tailBytes {
		t.b = append(t.b[:0], t.b[n-tailBytes:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.b)) }

func (t *tail) has(words ...string) bool {
	for _, w := range words {
		if bytes.Contains(t.b, []byte(w)) {
			return true
		}
	}
	return false
}
