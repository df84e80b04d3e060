package main

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// container is a workload of this machine: the one of Run, whose id is empty, or
// one of a pod. What is not said otherwise is set before its first process runs
// and then stays.
type container struct {
	id               string
	root             *root
	cgroup           *cgroup // nil: the kernel has none
	init             bool    // without a PID namespace of its own
	masked, readonly []string

	first   *process    // guarded by manager.mu
	ns      *namespaces // of first; guarded by manager.mu
	removed bool        // or about to be; guarded by manager.mu

	procs sync.WaitGroup // those that have not been reported
}

// finish completes the root, when everything is mounted.
func (c *container) finish(cwd string, readOnly bool) error {
	if cwd != "" {
		if dir, err := c.root.tree.MkdirAll(cwd, 0o755); err == nil {
			dir.Close()
		}
	}
	if readOnly {
		return mount("", c.root.path(), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

func (c *container) credentials(p *guestproto.Process) (etcfiles.Creds, error) {
	passwd, err := c.root.tree.ReadFile("/etc/passwd", etcfiles.MaxUserFile)
	if err != nil {
		return etcfiles.Creds{}, err
	}
	group, err := c.root.tree.ReadFile("/etc/group", etcfiles.MaxUserFile)
	if err != nil {
		return etcfiles.Creds{}, err
	}
	found, err := etcfiles.Lookup(p.User, p.Spec.User, passwd, group)
	if err != nil {
		return found, &startError{125, err.Error()}
	}
	return found, nil
}

// console binds the first process's terminal to /dev/console, as containers
// with a terminal have it.
func (c *container) console() error {
	node := c.root.path() + "/dev/console"
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		return err
	}
	return unix.Mount(c.root.path()+"/dev/pts/0", node, "", unix.MS_BIND, "")
}
