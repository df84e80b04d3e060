package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// podDir is where the containers' roots are found by name.
func (m *manager) podDir() string { return m.cfg.base + "/pod" }

// shmDir is every container's /dev/shm: like the rest of IPC it is the pod's.
func (m *manager) shmDir() string { return m.cfg.base + "/shm" }

// beginPod serves Pod.
func (m *manager) beginPod(p guestproto.Pod) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ran {
		return stateErr("run was called before")
	}
	m.ran, m.pod = true, true
	m.run = guestproto.Run{Hostname: p.Hostname, Network: p.Network, Sysctl: p.Sysctl}
	m.begin(p.Clock, p.Entropy)
	if err := setupNetwork(p.Network); err != nil {
		return err
	}
	if err := m.nameMachine(); err != nil {
		return err
	}
	var err error
	if m.cgroup, err = m.group(); err != nil {
		m.warn("make the pod's cgroup", err)
	}
	for _, d := range []string{m.podDir(), m.shmDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := mountShm(m.shmDir()); err != nil {
		return err
	}
	if m.cfg.lower != "" {
		return mount(m.cfg.lower, m.podDir(), "", unix.MS_BIND|unix.MS_REC, "") // tests
	}
	return mount(p.Share, m.podDir(), "virtiofs", unix.MS_NODEV, "")
}

// create serves Create. Only the start of the first process is done with m.mu
// held: to build a root takes as long as the host's files take, and others are to
// have their signals meanwhile.
func (m *manager) create(r guestproto.Container) (guestproto.Started, error) {
	var none guestproto.Started
	if err := guestproto.CheckID(r.ID); err != nil {
		return none, err
	}
	root := &root{base: m.cfg.base + "/containers/" + r.ID}
	c := &container{id: r.ID, root: root, init: r.SharePIDs, masked: r.MaskedPaths, readonly: r.ReadonlyPaths}
	m.mu.Lock()
	switch {
	case !m.pod || m.stopping:
		m.mu.Unlock()
		return none, stateErr("this is no pod, or it ends")
	case m.containers[r.ID] != nil:
		m.mu.Unlock()
		return none, stateErr("container id %s is taken", r.ID)
	}
	m.containers[r.ID] = c
	group := m.cgroup
	m.mu.Unlock()

	started, err := m.fill(c, r, group)
	if err != nil {
		m.warn("remove a container that did not start", m.tearDown(c))
	}
	return started, err
}

// fill builds a container and starts its first process.
func (m *manager) fill(c *container, r guestproto.Container, group *cgroup) (guestproto.Started, error) {
	var none guestproto.Started
	if err := m.build(c, r, group); err != nil {
		return none, err
	}
	creds, err := c.credentials(&r.Process)
	if err != nil {
		return none, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.removed || m.stopping {
		return none, stateErr("container %s is removed, or the pod ends", r.ID)
	}
	return m.launch(c, &r.Process, creds, true)
}

// build makes everything around a container's first process.
func (m *manager) build(c *container, r guestproto.Container, group *cgroup) (err error) {
	if err := os.MkdirAll(c.root.path(), 0o755); err != nil {
		return err
	}
	if err := mount(m.podDir()+"/"+r.ID, c.root.path(), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if c.root.tree, err = etcfiles.OpenTree(c.root.path()); err != nil {
		return err
	}
	if err := c.root.populate(nil, m.shmDir()); err != nil {
		return err
	}
	if err := setSysctls(r.Sysctl); err != nil {
		return err
	}
	if c.cgroup, err = group.child(r.ID); err != nil {
		m.warn("make the cgroup of "+r.ID, err)
		c.cgroup = nil
	}
	if err := c.cgroup.limit(r.Limits); err != nil {
		return err
	}
	return c.finish(r.Process.Spec.Cwd, r.ReadOnly)
}

// hiddenFrom are the mounts that are none of a container's business: the pod's
// share and the others' roots. Preconditions: m.mu is held.
func (m *manager) hiddenFrom(c *container) []string {
	if !m.pod {
		return nil
	}
	hidden := []string{m.podDir()}
	for _, other := range m.containers {
		if other != c {
			hidden = append(hidden, other.root.path())
		}
	}
	return hidden
}

// remove serves Remove.
func (m *manager) remove(r guestproto.Remove) error {
	m.mu.Lock()
	c := m.containers[r.ID]
	if !m.pod || c == nil || c.removed {
		m.mu.Unlock()
		return stateErr("no such container: %s", guestproto.CleanText(r.ID))
	}
	c.removed = true
	if c.first == nil { // create finds it so, and takes it down
		m.mu.Unlock()
		return nil
	}
	c.cgroup.kill()
	for pid, pr := range m.byPID { // where there is no cgroup
		if pr.in == c {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	m.mu.Unlock()
	// Their output may be on its way to somebody who does not take it.
	within(drainWait, c.procs.Wait)
	return m.tearDown(c)
}

// tearDown takes back what build made. Preconditions: no process of c's is left.
func (m *manager) tearDown(c *container) error {
	err := c.cgroup.remove()
	if c.root.tree != nil {
		c.root.tree.Close()
	}
	// It may not be mounted, nor its place made.
	if uerr := unix.Unmount(c.root.path(), unix.MNT_DETACH); uerr != unix.EINVAL && uerr != unix.ENOENT {
		err = errors.Join(err, uerr)
	}
	for _, d := range []string{c.root.path(), c.root.base} {
		if rerr := unix.Rmdir(d); rerr != unix.ENOENT {
			err = errors.Join(err, rerr)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.ns.close()
	delete(m.containers, c.id)
	return err
}
