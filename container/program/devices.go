package program

import (
	"path"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// devLinks are in every container's /dev.
var devLinks = [...][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
}

// devices makes the device files and links.
func (c *creator) devices() {
	dirs := map[string]steps.Ref{} // most are in one
	for i := range c.Plan.Devices {
		d := &c.Plan.Devices[i]
		c.about = "device " + d.Path + ": "
		c.device(d, c.devDir(dirs, path.Dir(d.Path)), path.Base(d.Path))
	}
	c.about = "/dev: "
	if c.Plan.DevDefaults {
		dev := c.devDir(dirs, "/dev")
		for _, l := range devLinks {
			c.symlink(dev, l[1], l[0], true)
		}
		// A ptmx that is not the one of the container's own devpts would open
		// somebody else's terminals.
		var gone steps.Label
		c.CallOn("", unix.SYS_UNLINKAT, dev, c.text("ptmx"), 0).Then(&gone).Optional()
		c.when(unix.ENOENT, &gone)
		c.FailAgain(c.about + "remove ptmx")
		c.Here(&gone)
		c.symlink(dev, "pts/ptmx", "ptmx", false)
	}
	c.about = ""
}

// devDir opens a directory once.
func (c *creator) devDir(dirs map[string]steps.Ref, name string) steps.Ref {
	dir, ok := dirs[name]
	if !ok {
		dir = c.Space(8)
		c.mkdirAll(c.root, name, dir)
		dirs[name] = dir
	}
	return dir
}

func (c *creator) symlink(dir steps.Ref, to, name string, mayExist bool) {
	var done steps.Label
	c.CallFrom("", unix.SYS_SYMLINKAT, []steps.From{{Arg: 1, Ref: dir}}, c.text(to), 0, c.text(name)).Then(&done).Optional()
	if mayExist {
		c.when(unix.EEXIST, &done)
	}
	c.FailAgain(c.about + "symlink " + name)
	c.Here(&done)
}

func (c *creator) device(d *plan.Device, dir steps.Ref, base string) {
	fifo := d.Mode&unix.S_IFMT == unix.S_IFIFO
	if c.Plan.UserNS && !fifo {
		c.bindDevice(d, dir, base)
		return
	}
	dev := unix.Mkdev(d.Major, d.Minor)
	if fifo {
		dev = 0
	}
	var made, refused, other, differs, gone, done steps.Label
	mknod := func() steps.Step {
		return c.CallOn(c.about+"mknod", unix.SYS_MKNODAT, dir, c.text(base), uint64(d.Mode), dev)
	}
	mknod().Then(&made).Optional()
	c.when(unix.EPERM, &refused)
	c.Compare(c.about+"mknod", steps.LastErrno, all, uint64(unix.EEXIST), unix.EIO)
	// The image's, if it is the right one. Whom it lets in is not the image's to
	// say: that is made anew, where it can be.
	st := c.Space(statSize)
	c.on(dir, "fstatat", unix.SYS_NEWFSTATAT, c.text(base), uint64(st), unix.AT_SYMLINK_NOFOLLOW)
	c.Compare("", st+statMode, unix.S_IFMT, uint64(d.Mode&unix.S_IFMT), 0).Else(&other)
	c.Compare("", st+statDevice, all, dev, 0).Else(&other)
	c.Compare("", st+statMode, all, uint64(d.Mode)|uint64(d.UID)<<32, 0).Else(&differs)
	c.Compare("", st+statGroup, 1<<32-1, uint64(d.GID), 0).Then(&done).Else(&differs)
	c.Here(&differs)
	c.CallOn("", unix.SYS_UNLINKAT, dir, c.text(base), 0).Then(&gone).Optional()
	c.when(unix.EROFS, &done)
	c.FailAgain(c.about + "replace it")
	c.Here(&other)
	c.on(dir, "replace it", unix.SYS_UNLINKAT, c.text(base), 0)
	c.Here(&gone)
	mknod().Then(&made).Optional()
	c.when(unix.EPERM, &refused)
	c.FailAgain(c.about + "mknod")
	c.Here(&refused)
	c.bindDevice(d, dir, base)
	c.Go(&done)
	c.Here(&made)
	if d.UID|d.GID != 0 {
		c.on(dir, "chown", unix.SYS_FCHOWNAT, c.text(base), uint64(d.UID), uint64(d.GID), unix.AT_SYMLINK_NOFOLLOW)
	}
	c.Here(&done)
}

// bindDevice shows the host's device file where none can be made.
func (c *creator) bindDevice(d *plan.Device, dir steps.Ref, base string) {
	tree, target := c.Space(8), c.Space(8)
	about := c.about
	c.about += "it cannot be made in a user namespace, nor taken from the host: "
	c.openTree(d.Path, unix.AT_SYMLINK_NOFOLLOW, tree)
	c.about = about
	st := c.stat(tree)
	const another = "the host has another device there, and a user namespace cannot make this one"
	c.Compare(c.about+another, st+statMode, unix.S_IFMT, uint64(d.Mode&unix.S_IFMT), unix.ENODEV)
	c.Compare(c.about+another, st+statDevice, all, unix.Mkdev(d.Major, d.Minor), unix.ENODEV)
	var failed, made steps.Label
	c.create(dir, base, 0o600, &failed)
	c.Go(&made)
	c.Here(&failed)
	c.FailAgain(c.about + "create")
	c.Here(&made)
	c.open(dir, base, unix.O_PATH, beneath, target, nil)
	c.attach(tree, target)
	c.close(target)
	c.close(tree)
}
