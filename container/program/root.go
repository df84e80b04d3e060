package program

import (
	"path"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// newRoot makes the root file system with everything that is mounted in it,
// and enters it.
func (c *creator) newRoot() {
	p := c.Plan
	c.openNull()
	c.bindRoot()
	for i := range p.Mounts {
		c.about = "mount " + p.Mounts[i].Dest + ": "
		c.mount(&p.Mounts[i])
		c.about = ""
	}
	c.devices()
	if p.Process != nil && p.Process.Terminal {
		peer := c.terminal(p.Process, c.root, c.Container.Console)
		c.bindConsole(c.root, peer)
	}
	c.hooks()
	c.makeCwd()
	c.sysctl()
	c.restrictPaths()
	for _, f := range c.later {
		f()
	}
	c.enterRoot()
}

// plainRoot is for a container without a mount namespace: it only changes its
// root directory.
func (c *creator) plainRoot() {
	p := c.Plan
	c.hooks()
	c.sysctl()
	c.Call("chroot "+p.Root.Path, unix.SYS_CHROOT, c.text(p.Root.Path))
	c.Call("chdir", unix.SYS_CHDIR, c.text("/"))
	c.Call("open /", unix.SYS_OPEN, c.text("/"), dirPath|unix.O_CLOEXEC).Store(c.root)
	if p.Process != nil && p.Process.Terminal {
		c.terminal(p.Process, c.root, c.Container.Console)
	}
}

// openNull opens the host's /dev/null, which masks files, while it is in
// reach. The image's own must not be used: it may be anything.
func (c *creator) openNull() {
	c.about = "the host's /dev/null: "
	c.call("open", unix.SYS_OPEN, c.text("/dev/null"), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC).Store(c.null)
	st := c.stat(c.null)
	c.Compare(c.about+"it is no character device", st+statMode, unix.S_IFMT, unix.S_IFCHR, unix.ENODEV)
	c.Compare(c.about+"it is another device", st+statDevice, all, unix.Mkdev(1, 3), unix.ENODEV)
	c.about = ""
}

// bindRoot makes the bundle's root directory a mount of its own and opens it.
// From here on nothing is looked up by a path of the host, but sources.
func (c *creator) bindRoot() {
	r := &c.Plan.Root
	how := uint64(unix.MS_SLAVE)
	switch r.Propagation &^ unix.MS_REC {
	case unix.MS_PRIVATE, unix.MS_UNBINDABLE:
		how = unix.MS_PRIVATE
	case unix.MS_SHARED:
		// What is mounted in the container is to reach the host: only the mount
		// that the root directory is in is cut off, so that the root's own mount
		// and pivot_root do not.
		how = 0
	}
	if how != 0 {
		c.Call("cut the mounts off from the host's", unix.SYS_MOUNT_SETATTR, atCWD, c.text("/"), unix.AT_RECURSIVE, c.mountAttr(0, 0, how), mountAttrSize)
	} else {
		c.Call("make "+r.Mount+" private", unix.SYS_MOUNT, c.text(""), c.text(r.Mount), c.text(""), unix.MS_PRIVATE, 0)
	}
	c.about = "root.path: "
	target := c.Space(8)
	c.call("open "+r.Path, unix.SYS_OPEN, c.text(r.Path), dirPath|unix.O_CLOEXEC).Store(target)
	c.on(target, "open_tree "+r.Path, unix.SYS_OPEN_TREE, c.text(""), unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).Store(c.root)
	c.setPropagation(c.root, "make it private", unix.MS_PRIVATE)
	c.attach(c.root, target)
	c.close(target)
	c.about = ""
}

// hooks lets the runtime run its hooks, which may change our network or mounts.
func (c *creator) hooks() {
	if c.Plan.RuntimeHooks {
		c.Tell(Hooks)
		c.await("hooks")
	}
}

// makeCwd makes the working directory where the image has none, as engines
// expect it of a runtime. That it cannot be made shows when it is entered.
func (c *creator) makeCwd() {
	if c.Plan.Process == nil || path.Clean(c.Plan.Process.Cwd) == "/" {
		return
	}
	var next steps.Label
	at := c.Space(8)
	c.tryMkdirAll(c.root, c.Plan.Process.Cwd, at, &next)
	c.close(at)
	c.Here(&next)
}

// sysctl writes the kernel parameters of our namespaces.
func (c *creator) sysctl() {
	if len(c.Plan.Sysctl) == 0 {
		return
	}
	proc := c.openProc()
	for _, kv := range c.Plan.Sysctl {
		c.writeProc(proc, "linux.sysctl "+kv.Key, "sys/"+kv.Key, kv.Value, nil)
	}
	c.close(proc)
}

// enterRoot makes the root file system the process's root and lets go of the
// host's.
func (c *creator) enterRoot() {
	r := &c.Plan.Root
	if r.ReadOnly {
		c.setAttr(c.root, "root.readonly", unix.MOUNT_ATTR_RDONLY, 0, 0, false)
	}
	dot := c.text(".")
	c.on(c.root, "fchdir", unix.SYS_FCHDIR)
	if r.NoPivot {
		c.Call("move the root", unix.SYS_MOUNT, dot, c.text("/"), c.text(""), unix.MS_MOVE, 0)
		c.Call("chroot", unix.SYS_CHROOT, dot)
	} else {
		c.Call("pivot_root", unix.SYS_PIVOT_ROOT, dot, dot)
		// The old root now lies on top of the new one. Unmounting it must not
		// reach the host.
		c.Call("cut the old root off", unix.SYS_MOUNT, c.text(""), dot, c.text(""), unix.MS_SLAVE|unix.MS_REC, 0)
		c.Call("let go of the old root", unix.SYS_UMOUNT2, dot, unix.MNT_DETACH)
	}
	c.Call("chdir", unix.SYS_CHDIR, c.text("/"))
	if r.Propagation != 0 {
		c.setPropagation(c.root, "linux.rootfsPropagation", r.Propagation)
	}
}

// restrictPaths hides and write-protects what the configuration names. Missing
// ones are skipped, everything else is an error.
func (c *creator) restrictPaths() {
	fd, tree := c.Space(8), c.Space(8)
	const clone = unix.AT_EMPTY_PATH | unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	for _, name := range c.Plan.ReadOnly {
		c.about = "linux.readonlyPaths " + name + ": "
		var next steps.Label
		c.openExisting(name, fd, &next)
		c.on(fd, "open_tree", unix.SYS_OPEN_TREE, c.text(""), clone|unix.AT_RECURSIVE).Store(tree)
		c.setAttr(tree, "make it read-only", unix.MOUNT_ATTR_RDONLY, 0, 0, false)
		c.attach(tree, fd)
		c.close(tree)
		c.close(fd)
		c.Here(&next)
	}
	var empty, used steps.Ref
	for _, name := range c.Plan.Masked {
		if empty == 0 {
			empty, used = c.emptyDir(), c.Space(8)
		}
		c.about = "linux.maskedPaths " + name + ": "
		var next, folder, copied, cover, done steps.Label
		c.openExisting(name, fd, &next)
		source := c.Space(8)
		c.isDir(c.stat(fd), &folder)
		c.Copy(source, c.null)
		c.Go(&cover)
		c.Here(&folder)
		// Before Linux 6.15 only what is attached can be copied.
		c.Compare("", used, 1, 1, 0).Then(&copied).Optional()
		c.attach(empty, fd)
		c.Set(used, 1)
		c.Go(&done)
		c.Here(&copied)
		c.Copy(source, empty)
		c.Here(&cover)
		c.on(source, "open_tree", unix.SYS_OPEN_TREE, c.text(""), clone).Store(tree)
		c.attach(tree, fd)
		c.close(tree)
		c.Here(&done)
		c.close(fd)
		c.Here(&next)
	}
	c.about = ""
}

// openExisting opens name; that it is missing goes to next.
func (c *creator) openExisting(name string, fd steps.Ref, next *steps.Label) {
	var failed, opened steps.Label
	c.open(c.root, name, unix.O_PATH, inRoot, fd, &failed)
	c.Go(&opened)
	c.Here(&failed)
	c.when(unix.ENOENT, next)
	c.when(unix.ENOTDIR, next)
	c.FailAgain(c.about + "open")
	c.Here(&opened)
}

// emptyDir makes an empty read-only directory that is mounted nowhere.
func (c *creator) emptyDir() (tree steps.Ref) {
	c.about = "linux.maskedPaths: "
	return c.newFS("tmpfs", unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC,
		plan.Pair{Key: "mode", Value: "755"}, plan.Pair{Key: "size", Value: "0"})
}
