package main

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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
	enableControllers()
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

// enableControllers has groups count and limit what the kernel can, in one
// write: each takes the time to make all of it anew.
func enableControllers() {
	there, _ := os.ReadFile(cgroupRoot + "/cgroup.controllers")
	var on []string
	for c := range strings.FieldsSeq(string(there)) {
		switch c {
		case "cpu", "memory", "pids":
			on = append(on, "+"+c)
		}
	}
	_ = os.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte(strings.Join(on, " ")), 0)
}

// limitPIDs bounds the group's tasks; 0 is no bound. A bound that the kernel
// cannot keep is refused.
func (c *cgroup) limitPIDs(n int64) error {
	if n == 0 {
		return nil
	}
	if c == nil {
		return stateErr("a limit of %d processes: this guest kernel has no cgroups", n)
	}
	err := os.WriteFile(c.dir+"/pids.max", strconv.AppendInt(nil, n, 10), 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return stateErr("a limit of %d processes: this guest kernel has no pids cgroups", n)
	}
	return err
}

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
