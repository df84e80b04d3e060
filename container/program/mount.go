package program

import (
	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// mount carries out one mount of the plan.
func (c *creator) mount(m *plan.Mount) {
	switch m.Kind {
	case plan.FileSystem:
		c.mountFS(m)
	case plan.Bind:
		c.mountBind(m)
	case plan.Cgroup:
		c.mountCgroup(m)
	}
}

// newFS makes a file system that is mounted nowhere yet and stores its
// descriptor at the word it returns.
func (c *creator) newFS(kind string, attr uint64, opts ...plan.Pair) (tree steps.Ref) {
	tree = c.Space(8)
	c.makeFS(kind, attr, opts, tree, nil)
	return tree
}

// makeFS is newFS; that it cannot be made goes to failed (nil: fails the
// program).
func (c *creator) makeFS(kind string, attr uint64, opts []plan.Pair, tree steps.Ref, failed *steps.Label) {
	fs := c.Space(8)
	what := "file system \"" + kind + "\": "
	may := func(s steps.Step) steps.Step {
		if failed != nil {
			return s.Else(failed)
		}
		return s
	}
	may(c.call(what+"fsopen", unix.SYS_FSOPEN, c.text(kind), unix.FSOPEN_CLOEXEC)).Store(fs)
	for _, o := range c.withContext(kind, opts) {
		if o.Value == "" && o.Key != "source" {
			may(c.on(fs, what+"option "+o.Key, unix.SYS_FSCONFIG, unix.FSCONFIG_SET_FLAG, c.text(o.Key), 0, 0))
		} else {
			may(c.on(fs, what+"option "+o.Key+"="+o.Value, unix.SYS_FSCONFIG, unix.FSCONFIG_SET_STRING, c.text(o.Key), c.text(o.Value), 0))
		}
	}
	may(c.on(fs, what+"create", unix.SYS_FSCONFIG, unix.FSCONFIG_CMD_CREATE, 0, 0, 0))
	may(c.on(fs, what+"fsmount", unix.SYS_FSMOUNT, unix.FSMOUNT_CLOEXEC, attr)).Store(tree)
	c.close(fs)
}

// mountFS mounts a new file system.
func (c *creator) mountFS(m *plan.Mount) {
	var opts []plan.Pair
	hasMode := false
	if m.Source != "" {
		opts = append(opts, plan.Pair{Key: "source", Value: m.Source})
	}
	for _, o := range m.Options {
		opts = append(opts, o)
		hasMode = hasMode || o.Key == "mode"
	}
	target := c.Space(8)
	if m.Type == "proc" || m.Type == "sysfs" {
		c.realDir(m.Dest, target)
	} else {
		c.mkdirAll(c.root, m.Dest, target)
	}
	set, lateRO := m.AttrSet, m.Type == "tmpfs" && m.AttrSet&unix.MOUNT_ATTR_RDONLY != 0
	if lateRO { // what is mounted inside still needs its mount points made
		set &^= unix.MOUNT_ATTR_RDONLY
	}
	tree := c.newFS(m.Type, set, opts...)
	if m.Type == "tmpfs" && !hasMode {
		c.likeTarget(tree, target)
	}
	if m.Type == "mqueue" && c.Plan.MountLabel != "" {
		c.labelRoot(tree)
	}
	if m.CopyUp {
		c.sendTo("copy up", c.Sync, target)
		c.sendTo("copy up", c.Sync, tree)
		c.Tell(CopyUp)
		c.await("copy up")
	}
	c.place(m, tree, target, lateRO)
}

// likeTarget gives a new file system's root the mode of the directory that it
// will cover.
func (c *creator) likeTarget(tree, target steps.Ref) {
	root, st := c.Space(8), c.stat(target)
	c.on(tree, "open", unix.SYS_OPENAT, c.text("."), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC).Store(root)
	// The kernel takes the low 12 bits of the mode.
	c.CallFrom(c.about+"fchmod", unix.SYS_FCHMOD, []steps.From{{Arg: 0, Ref: root}, {Arg: 1, Ref: st + statMode}})
	c.close(root)
}

// place attaches the tree on target and sets what has to be set afterwards.
func (c *creator) place(m *plan.Mount, tree, target steps.Ref, lateRO bool) {
	c.attach(tree, target)
	c.close(target)
	for _, how := range m.Propagation {
		c.setPropagation(tree, "propagation", how)
	}
	if !lateRO {
		c.close(tree)
		return
	}
	what := c.about + "read-only"
	c.later = append(c.later, func() {
		c.setAttr(tree, what, unix.MOUNT_ATTR_RDONLY, 0, 0, false)
		c.close(tree)
	})
}

// realDir opens a mount point no component of which is a symbolic link: a
// /proc that is somewhere else would be believed by everybody.
func (c *creator) realDir(name string, to steps.Ref) {
	var missing, other, done steps.Label
	c.open(c.root, name, dirPath, noLinks, to, &missing)
	c.Go(&done)
	c.Here(&missing)
	c.Compare("", steps.LastErrno, all, uint64(unix.ENOENT), 0).Else(&other)
	c.mkdirAll(c.root, name, to)
	c.close(to)
	c.open(c.root, name, dirPath, noLinks, to, &other)
	c.Go(&done)
	c.Here(&other)
	c.FailAgain(c.about + "the image has something else than a directory there, or a symbolic link on the way")
	c.Here(&done)
}

// openTree stores a detached copy of the tree at a path of the host.
func (c *creator) openTree(path string, flags uint64, to steps.Ref) {
	c.call("bind "+path, unix.SYS_OPEN_TREE, atCWD, c.text(path), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags).Store(to)
}

// mountBind mounts an existing tree: one the runtime opened, or one we open
// here, while the host's root is still ours.
func (c *creator) mountBind(m *plan.Mount) {
	tree, target := c.Space(8), c.Space(8)
	if m.SourceFD >= 0 {
		c.Set(tree, uint64(m.SourceFD))
	} else {
		var flags uint64
		if m.Recursive {
			flags |= unix.AT_RECURSIVE
		}
		if m.NoFollow {
			flags |= unix.AT_SYMLINK_NOFOLLOW
		}
		c.openTree(m.Source, flags, tree)
	}
	var folder, ready steps.Label
	c.isDir(c.stat(tree), &folder)
	c.touch(c.root, m.Dest, target)
	c.Go(&ready)
	c.Here(&folder)
	c.mkdirAll(c.root, m.Dest, target)
	c.Here(&ready)
	// What was not asked for stays as it is in the source.
	c.setAttr(tree, "options", m.AttrSet, m.AttrClear, 0, false)
	c.setAttr(tree, "recursive options", m.RecSet, m.RecClear, 0, true)
	c.place(m, tree, target, false)
}

// mountCgroup shows the container its cgroup: as one tree (v2), or as a
// directory per hierarchy (v1).
func (c *creator) mountCgroup(m *plan.Mount) {
	target, tree := c.Space(8), c.Space(8)
	c.realDir(m.Dest, target)
	if len(m.Cgroups) == 1 && m.Cgroups[0].Key == "" {
		var refused, made steps.Label
		c.makeFS("cgroup2", m.AttrSet, nil, tree, &refused)
		c.Go(&made)
		c.Here(&refused) // no cgroup namespace of our own: the part that is ours
		c.openTree(m.Cgroups[0].Value, 0, tree)
		c.setAttr(tree, "options", m.AttrSet, 0, 0, false)
		c.Here(&made)
		c.place(m, tree, target, false)
		return
	}
	ro := m.AttrSet & unix.MOUNT_ATTR_RDONLY
	c.makeFS("tmpfs", m.AttrSet&^ro, []plan.Pair{{Key: "mode", Value: "755"}, {Key: "size", Value: "64k"}}, tree, nil)
	// The tree on the descriptor is ours alone until it is attached.
	for _, g := range m.Cgroups {
		c.on(tree, "mkdir "+g.Key, unix.SYS_MKDIRAT, c.text(g.Key), 0o755)
	}
	c.place(m, tree, target, ro != 0)
	// Mounts cannot be attached below a detached tree on older kernels.
	for _, g := range m.Cgroups {
		group, at := c.Space(8), c.Space(8)
		c.openTree(g.Value, 0, group)
		c.setAttr(group, "options", m.AttrSet, 0, 0, false)
		c.open(c.root, m.Dest+"/"+g.Key, dirPath, noLinks, at, nil)
		c.attach(group, at)
		c.close(at)
		c.close(group)
	}
}
