package work

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"syscall"
	"time"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/workload"
)

// account is the control group that everything of one instance lives in: what
// makes it and owns it in the child "owner", the rest in children that targets
// make themselves.
type account struct {
	path         string
	group, owner *cgroup.Group
}

// openAccount makes it. The instance's ID names it.
func openAccount(id string) (*account, error) {
	a := &account{path: path.Join(workload.DefaultCgroupParent, "bench-"+id[:12])}
	var err error
	if a.group, err = cgroup.Create(cgroup.Options{Path: a.path}); err != nil {
		return nil, fmt.Errorf("a control group to charge an instance to: %w", err)
	}
	if a.owner, err = cgroup.Create(cgroup.Options{Path: path.Join(a.path, "owner")}); err != nil {
		return nil, errors.Join(err, a.close(context.Background()))
	}
	return a, nil
}

// start starts a program in a group. With cgroup v1 it gets there a moment later:
// what it did until then is charged elsewhere.
func start(c *exec.Cmd, g *cgroup.Group) error {
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	f, err := g.File()
	if err != nil {
		return err
	}
	if f != nil {
		defer f.Close()
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(f.Fd())
	}
	if err := c.Start(); err != nil {
		return err
	}
	if !g.NeedsAdd() {
		return nil
	}
	if err := g.Add(c.Process.Pid); err != nil {
		_ = c.Process.Kill()
		return errors.Join(err, c.Wait())
	}
	return nil
}

// fill says what the instance has cost.
func (a *account) fill(e *Ended) error {
	st, err := a.group.Stats()
	if err != nil {
		return err
	}
	e.CPU, e.Peak = st.CPU.Usage, st.Memory.Peak
	return nil
}

// close ends what is left of the instance and removes the group.
func (a *account) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := a.group.Delete(ctx); err != nil {
		return err
	}
	a.group.Prune("/")
	return nil
}

// exitOf translates how a program of ours ended.
func exitOf(p *os.ProcessState) workload.Exit {
	code := p.ExitCode()
	if ws, ok := p.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return workload.Exit{Code: code, At: time.Now()}
}
