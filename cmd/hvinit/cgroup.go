package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// cgroupRoot is where hvinit mounts the unified hierarchy for itself.
const cgroupRoot = "/sys/fs/cgroup"

// cgroup is the workload's group. A nil *cgroup, on a kernel without cgroups,
// does nothing and knows nothing.
type cgroup struct {
	dir   string
	at    *os.File // the directory
	procs *os.File // cgroup.procs in it
	ooms  uint64   // OOM kills accounted for so far
}

// newCgroup makes the workload's group below root. Controllers that the kernel
// lacks are left out.
func newCgroup(dir string) (*cgroup, error) {
	enableControllers(cgroupRoot)
	return openCgroup(dir)
}

// child makes a group below, in whose place this one counts for all of them.
// Preconditions: no process is in c itself.
func (c *cgroup) child(name string) (*cgroup, error) {
	if c == nil {
		return nil, nil
	}
	enableControllers(c.dir)
	return openCgroup(c.dir + "/" + name)
}

func openCgroup(dir string) (*cgroup, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	at, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	procs, err := os.OpenFile(dir+"/cgroup.procs", os.O_WRONLY, 0)
	if err != nil {
		at.Close()
		return nil, err
	}
	return &cgroup{dir: dir, at: at, procs: procs}, nil
}

// enableControllers has the groups in dir count and limit what the kernel can, in
// one write: each takes the time to make all of it anew.
func enableControllers(dir string) {
	there, _ := os.ReadFile(dir + "/cgroup.controllers")
	var on []string
	for c := range strings.FieldsSeq(string(there)) {
		switch c {
		case "cpu", "memory", "pids":
			on = append(on, "+"+c)
		}
	}
	_ = os.WriteFile(dir+"/cgroup.subtree_control", []byte(strings.Join(on, " ")), 0)
}

// limitPIDs bounds the group's tasks; 0 is no bound. A bound that the kernel
// cannot keep is refused.
func (c *cgroup) limitPIDs(n int64) error {
	if n == 0 {
		return nil
	}
	return c.set("pids.max", strconv.FormatInt(n, 10), fmt.Sprintf("a limit of %d processes", n))
}

// limit sets every bound that is asked for.
func (c *cgroup) limit(l guestproto.Limits) error {
	if err := c.limitPIDs(l.PIDs); err != nil {
		return err
	}
	if n := l.MemoryBytes; n != 0 {
		if err := c.set("memory.max", strconv.FormatUint(n, 10), fmt.Sprintf("a limit of %d bytes of memory", n)); err != nil {
			return err
		}
	}
	if l.CPUQuotaUs == 0 {
		return nil
	}
	return c.set("cpu.max", fmt.Sprintf("%d %d", l.CPUQuotaUs, l.CPUPeriodUs), "a limit of processor time")
}

// limit serves Limit.
func (m *manager) limit(l guestproto.Limit) error {
	m.mu.Lock()
	c, there := m.cgroup, m.containers[""] != nil
	m.mu.Unlock()
	switch {
	case !there:
		return stateErr("no workload runs")
	case l.PIDs <= 0:
		return &rpcError{-32602, fmt.Sprintf("a limit of %d processes", l.PIDs)}
	}
	return c.limitPIDs(l.PIDs)
}

// set writes a bound, or says which one this kernel does not know.
func (c *cgroup) set(file, value, what string) error {
	if c == nil {
		return stateErr("%s: this guest kernel has no cgroups", what)
	}
	err := os.WriteFile(c.dir+"/"+file, []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		controller, _, _ := strings.Cut(file, ".")
		return stateErr("%s: this guest kernel has no %s cgroups", what, controller)
	}
	return err
}

// remove ends what is left in the group and removes it.
func (c *cgroup) remove() error {
	if c == nil {
		return nil
	}
	c.kill()
	c.at.Close()
	c.procs.Close()
	for waited := time.Duration(0); ; waited += cgroupLook {
		err := unix.Rmdir(c.dir)
		if err != unix.EBUSY || waited >= drainWait {
			return err
		}
		time.Sleep(cgroupLook) //nolint:forbidigo // between two looks, until a deadline
	}
}

// cgroupLook is how often it is tried to remove a group of processes that are ending.
const cgroupLook = 2 * time.Millisecond

// value reads a file with one number; 0 when it is missing or says "max".
func (c *cgroup) value(name string) uint64 {
	b, err := os.ReadFile(c.dir + "/" + name)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	return n
}

// field reads one number of a file of "key value" lines.
func (c *cgroup) field(name, key string) uint64 {
	b, err := os.ReadFile(c.dir + "/" + name)
	if err != nil {
		return 0
	}
	return field(string(b), key)
}

func field(text, key string) uint64 {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) >= 2 && strings.TrimSuffix(f[0], ":") == key {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// newOOM reports whether the kernel killed a process of the group for lack of
// memory since newOOM last said so.
func (c *cgroup) newOOM() bool {
	if c == nil {
		return false
	}
	n := c.field("memory.events", "oom_kill")
	if n <= c.ooms {
		return false
	}
	c.ooms++
	return true
}

// kill ends every process of the group.
func (c *cgroup) kill() {
	if c == nil {
		return
	}
	// Kernels before 5.14 have no cgroup.kill.
	if os.WriteFile(c.dir+"/cgroup.kill", []byte("1"), 0) != nil {
		_ = c.signal(unix.SIGKILL)
	}
}

// signal sends a signal to every process of the group.
func (c *cgroup) signal(sig unix.Signal) error {
	if c == nil {
		return stateErr("this guest kernel has no cgroups: a signal to all processes is not possible")
	}
	b, err := os.ReadFile(c.dir + "/cgroup.procs")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(b)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || pid <= 1 {
			continue
		}
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
