package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// mountFlags are mount options that are flags; all others go to the file
// system as text.
var mountFlags = map[string]struct {
	flag  uintptr
	clear bool
}{
	"ro": {flag: unix.MS_RDONLY}, "rw": {flag: unix.MS_RDONLY, clear: true},
	"nosuid": {flag: unix.MS_NOSUID}, "suid": {flag: unix.MS_NOSUID, clear: true},
	"nodev": {flag: unix.MS_NODEV}, "dev": {flag: unix.MS_NODEV, clear: true},
	"noexec": {flag: unix.MS_NOEXEC}, "exec": {flag: unix.MS_NOEXEC, clear: true},
	"noatime": {flag: unix.MS_NOATIME}, "atime": {flag: unix.MS_NOATIME, clear: true},
	"relatime": {flag: unix.MS_RELATIME}, "strictatime": {flag: unix.MS_STRICTATIME},
	"nodiratime": {flag: unix.MS_NODIRATIME}, "sync": {flag: unix.MS_SYNCHRONOUS},
	"dirsync": {flag: unix.MS_DIRSYNC}, "bind": {flag: unix.MS_BIND}, "rbind": {flag: unix.MS_BIND | unix.MS_REC},
	"defaults": {},
}

func parseOptions(options []string) (flags uintptr, data string) {
	var rest []string
	for _, o := range options {
		f, ok := mountFlags[o]
		switch {
		case !ok:
			rest = append(rest, o)
		case f.clear:
			flags &^= f.flag
		default:
			flags |= f.flag
		}
	}
	return flags, strings.Join(rest, ",")
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstype, target, err)
	}
	return nil
}

// devNode is a device file or link of a container's /dev.
type devNode struct {
	name         string
	major, minor uint32
}

var devNodes = []devNode{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

var devLinks = [][2]string{
	{"ptmx", "pts/ptmx"},
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"core", "/proc/kcore"},
}

// root is the workload's file tree while hvinit builds it.
type root struct {
	base  string // hvinit's own directory; the tree is base/root
	tree  *etcfiles.Tree
	upper string // mount point of the writable layer
	disk  bool   // the writable layer is on a disk
}

func (r *root) path() string { return r.base + "/root" }

// buildRoot mounts the image and the writable layer. lower, when not empty, is
// a directory that stands in for the image.
// filled, when not nil, has a writable layer with something in it.
func buildRoot(base, lower string, spec guestproto.Root, filled *root) (*root, error) {
	if spec.Share != "" {
		return shareRoot(base, spec.Share)
	}
	r := newRoot(base)
	for _, d := range []string{base, base + "/lower", r.path()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if lower == "" {
		lower = base + "/lower"
		dev, err := findDisk(spec.Device)
		if err != nil {
			return nil, fmt.Errorf("the image's disk: %w", err)
		}
		if err := mountImage(dev, lower, spec); err != nil {
			return nil, err
		}
	}
	if filled != nil {
		r.disk = filled.disk
	} else if err := r.makeUpper(spec.Upper); err != nil {
		return nil, err
	}
	opts := "lowerdir=" + lower + ",upperdir=" + r.writable() + ",workdir=" + r.upper + "/work"
	if err := mount("overlay", r.path(), "overlay", 0, opts); err != nil {
		return nil, err
	}
	var err error
	r.tree, err = etcfiles.OpenTree(r.path())
	return r, err
}

// mountImage mounts the image: from memory without a copy in our page cache (DAX),
// which kernels that have drivers for such memory may still lack.
func mountImage(dev, at string, spec guestproto.Root) error {
	const flags = unix.MS_RDONLY | unix.MS_NOATIME
	if spec.Device.Pmem && unix.Mount(dev, at, spec.FSType, flags, "dax") == nil {
		return nil
	}
	return mount(dev, at, spec.FSType, flags, "")
}

// shareRoot mounts a shared directory as the root, as it is.
func shareRoot(base, tag string) (*root, error) {
	r := &root{base: base}
	if err := os.MkdirAll(r.path(), 0o755); err != nil {
		return nil, err
	}
	if err := mount(tag, r.path(), "virtiofs", 0, ""); err != nil {
		return nil, err
	}
	var err error
	r.tree, err = etcfiles.OpenTree(r.path())
	return r, err
}

func newRoot(base string) *root { return &root{base: base, upper: base + "/upper"} }

// writable is the directory of what the workload has written.
func (r *root) writable() string { return r.upper + "/upper" }

// makeUpper mounts the writable layer and makes what overlayfs wants to find in it.
func (r *root) makeUpper(u guestproto.Upper) error {
	if err := os.MkdirAll(r.upper, 0o755); err != nil {
		return err
	}
	if err := r.mountUpper(u); err != nil {
		return err
	}
	for _, d := range []string{r.writable(), r.upper + "/work"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (r *root) mountUpper(u guestproto.Upper) error {
	if u.Device == nil {
		opts := "mode=755"
		if u.TmpfsBytes != 0 {
			opts += ",size=" + strconv.FormatUint(u.TmpfsBytes, 10)
		}
		return mount("tmpfs", r.upper, "tmpfs", 0, opts)
	}
	dev, err := findDisk(*u.Device)
	if err != nil {
		return fmt.Errorf("the writable disk: %w", err)
	}
	fstype := u.FSType
	if fstype == "" {
		fstype = "ext4"
	}
	r.disk = true
	return mount(dev, r.upper, fstype, unix.MS_NOATIME, "")
}

// populate mounts what a container finds in its root, /proc excepted: that one
// belongs to the PID namespace of the first process, which mounts it. shm is what
// others have as their /dev/shm, too; empty: it has one of its own.
func (r *root) populate(disks []guestproto.Device, shm string) error {
	for _, d := range []string{"proc", "sys", "dev"} {
		if err := r.tree.RealDir(d); err != nil {
			return err
		}
	}
	const safe = unix.MS_NOSUID | unix.MS_NOEXEC
	dev := r.path() + "/dev"
	if err := mount("sysfs", r.path()+"/sys", "sysfs", safe|unix.MS_NODEV|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_STRICTATIME, "mode=755,size=64k"); err != nil {
		return err
	}
	defer unix.Umask(unix.Umask(0))
	for _, n := range devNodes {
		if err := unix.Mknod(dev+"/"+n.name, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return &os.PathError{Op: "mknod", Path: "/dev/" + n.name, Err: err}
		}
	}
	for _, d := range disks {
		if _, err := addDisk(dev, d); err != nil {
			return err
		}
	}
	for _, l := range devLinks {
		if err := os.Symlink(l[1], dev+"/"+l[0]); err != nil {
			return err
		}
	}
	for _, d := range []string{"pts", "shm", "mqueue"} {
		if err := os.Mkdir(dev+"/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := mount("devpts", dev+"/pts", "devpts", safe, "newinstance,ptmxmode=0666,mode=0620,gid=5"); err != nil {
		return err
	}
	if err := bindShm(dev+"/shm", shm); err != nil {
		return err
	}
	// A kernel without POSIX message queues does without.
	_ = mount("mqueue", dev+"/mqueue", "mqueue", safe|unix.MS_NODEV, "")
	return nil
}

func bindShm(at, shared string) error {
	if shared == "" {
		return mountShm(at)
	}
	return mount(shared, at, "", unix.MS_BIND, "")
}

func mountShm(at string) error {
	return mount("shm", at, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "mode=1777")
}

// addDisk makes the device file of a disk in dev, as the guest's own /dev has it,
// and returns its path.
func addDisk(dev string, d guestproto.Device) (string, error) {
	own, err := findDisk(d)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Stat(own, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: own, Err: err}
	}
	path := dev + strings.TrimPrefix(own, "/dev")
	if err := unix.Mknod(path, unix.S_IFBLK|0o660, int(st.Rdev)); err != nil {
		return "", &os.PathError{Op: "mknod", Path: own, Err: err}
	}
	return path, nil
}

// extra mounts one of the workload's own mounts.
func (r *root) extra(m guestproto.Mount) error {
	source := m.Source
	flags, data := parseOptions(m.Options)
	var keep *os.File
	switch {
	case m.Device != nil:
		var err error
		if source, err = findDisk(*m.Device); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	case m.File != "":
		f, err := r.sharedFile(m, flags, data)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		flags |= unix.MS_BIND
		keep, source = f, fdPath(f)
		defer keep.Close()
	case flags&unix.MS_BIND != 0 || m.Type == "bind":
		flags |= unix.MS_BIND
		f, err := r.tree.Open(m.Source, unix.O_PATH, 0)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		keep, source = f, fdPath(f)
		defer keep.Close()
	}
	target, err := r.target(m.Destination, keep)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Destination, err)
	}
	defer target.Close()
	if err := unix.Mount(source, fdPath(target), m.Type, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.Type, m.Destination, err)
	}
	if flags&unix.MS_BIND == 0 || flags&unix.MS_RDONLY == 0 {
		return nil
	}
	// A bind mount takes its flags only when mounted again, by a descriptor
	// that sees the mount and not what lies below it.
	again, err := r.tree.Open(m.Destination, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer again.Close()
	return mount("", fdPath(again), "", flags|unix.MS_REMOUNT, "")
}

// sharedFile mounts the directory of a shared file aside and opens the file.
func (r *root) sharedFile(m guestproto.Mount, flags uintptr, data string) (*os.File, error) {
	aside := r.base + "/shares/" + m.Source
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return nil, err
	}
	if err := mount(m.Source, aside, m.Type, flags, data); err != nil {
		return nil, err
	}
	return os.OpenFile(aside+"/"+m.File, unix.O_PATH|unix.O_NOFOLLOW, 0)
}

// target opens a mount point, made if missing: a file for a bind mount of one,
// else a directory.
func (r *root) target(name string, source *os.File) (*os.File, error) {
	if source != nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(source.Fd()), &st); err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return r.tree.Touch(name)
		}
	}
	return r.tree.MkdirAll(name, 0o755)
}

func fdPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// diskWait bounds how long a disk may take to appear. Drivers find their
// devices while they load, so the first look normally succeeds.
const diskWait = 5 * time.Second

// findDisk returns the device file of a virtio disk.
func findDisk(d guestproto.Device) (string, error) {
	for delay, waited := time.Millisecond, time.Duration(0); ; delay = min(2*delay, 50*time.Millisecond) {
		name, err := lookDisk("/sys/block", d)
		if err != nil || name != "" {
			return "/dev/" + name, err
		}
		if waited >= diskWait && d.Pmem {
			return "", fmt.Errorf("no /dev/pmem%d: this kernel has no driver for images as memory (virtio_pmem, nd_pmem); start the VM with --rootfs blk", d.Index)
		}
		if waited >= diskWait {
			return "", fmt.Errorf("no virtio disk with serial %q, index %d", d.Serial, d.Index)
		}
		time.Sleep(delay) //nolint:forbidigo // between two looks, until a deadline
		waited += delay
	}
}

// lookDisk looks once; it returns "" when the disk is not there.
func lookDisk(sys string, d guestproto.Device) (string, error) {
	if d.Serial == "" {
		name, err := diskName(d.Index)
		if d.Pmem {
			name, err = "pmem"+strconv.Itoa(d.Index), nil
		}
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(sys + "/" + name); err != nil {
			return "", nil
		}
		return name, nil
	}
	for i := range maxDisks {
		name, err := diskName(i)
		if err != nil {
			return "", err
		}
		b, err := os.ReadFile(sys + "/" + name + "/serial")
		if err == nil && strings.TrimRight(string(b), "\n\x00") == d.Serial {
			return name, nil
		}
	}
	return "", nil
}

// maxDisks is how many virtio disks are looked at: vda to vdz, vdaa to vdzz.
const maxDisks = 26 + 26*26

func diskName(i int) (string, error) {
	switch {
	case i < 0 || i >= maxDisks:
		return "", fmt.Errorf("disk index %d is not between 0 and %d", i, maxDisks-1)
	case i < 26:
		return "vd" + string(rune('a'+i)), nil
	}
	i -= 26
	return "vd" + string(rune('a'+i/26)) + string(rune('a'+i%26)), nil
}
