package nscontainer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hvctl/hvctl/internal/upper"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// layers are the container's root file system, mounted in this process's own
// mount namespace below the state directory:
//
//	layers/         a tmpfs
//	layers/image    the image, read-only
//	layers/upper    what the container writes
//	layers/work     overlayfs's own
//	layers/root     all of it together
type layers struct {
	dir   string
	root  string
	marks upper.Marks // of the overlay
	image *os.File    // held so that the image store does not remove it
}

// mountLayers mounts them. What was mounted when it fails goes with the process.
//
// In a user namespace (rootless), overlayfs keeps its marks in attributes that
// users may set.
func mountLayers(cfg *workload.Config, dir string, rootless bool) (_ *layers, err error) {
	l := &layers{dir: filepath.Join(dir, "layers"), marks: upper.Trusted}
	if rootless {
		l.marks = upper.Users
	}
	l.root = filepath.Join(l.dir, "root")
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("root file system of %s: %w", cfg.Image.Ref, err), l.close())
		}
	}()
	// Nothing of this is to appear on the host, and its later mounts and
	// unmounts are to appear here: what it unmounts we must not keep busy.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	if err := os.Mkdir(l.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	// The size: with a memory limit that is what bounds it, else the kernel's
	// half of memory.
	if err := mount("tmpfs", l.dir, "tmpfs", 0, "mode=0711"); err != nil {
		return nil, err
	}
	for _, d := range []string{"image", "upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(l.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := l.hold(cfg.Rootfs); err != nil {
		return nil, err
	}
	at := filepath.Join(l.dir, "image")
	if cfg.Rootfs.Dir != "" {
		err = mount(cfg.Rootfs.Dir, at, "", unix.MS_BIND, "")
	} else {
		err = l.mountImage(cfg.Rootfs, at)
	}
	if err == nil && cfg.Rootfs.Layer != "" {
		err = l.fill(cfg.Rootfs.Layer)
	}
	if err != nil {
		return nil, err
	}
	return l, l.overlay(rootless)
}

// fill puts what a container has written elsewhere into the writable layer.
func (l *layers) fill(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return upper.Unpack(f, filepath.Join(l.dir, "upper"), l.marks)
}

// pack writes what this one has written to w. It has to stand still, or what is written
// meanwhile may be missing or an error.
func (l *layers) pack(w io.Writer) error {
	return upper.Pack(w, filepath.Join(l.dir, "upper"), l.marks)
}

// hold marks the image as in use: as images.Rootfs.Open does.
func (l *layers) hold(r workload.Rootfs) (err error) {
	if l.image, err = os.Open(r.ImagePath); err != nil {
		return err
	}
	return os.NewSyscallError("flock", unix.Flock(int(l.image.Fd()), unix.LOCK_SH))
}

// overlay mounts the layers together. The names in its options are relative, for
// those of the state directory may have colons and commas, which end one there;
// they count from the working directory, which nothing else depends on.
func (l *layers) overlay(rootless bool) error {
	if err := os.Chdir(l.dir); err != nil {
		return err
	}
	options := "lowerdir=image,upperdir=upper,workdir=work"
	if rootless {
		options += ",userxattr"
	}
	err := mount("overlay", "root", "overlay", 0, options)
	return errors.Join(err, os.Chdir("/"))
}

// mountImage mounts a file system image: as a file where the kernel can, else
// through a loop device, which goes with the mount.
func (l *layers) mountImage(r workload.Rootfs, at string) error {
	err := unix.Mount(r.ImagePath, at, r.FSType, unix.MS_RDONLY|unix.MS_NODEV, "")
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("this kernel has no %s file system; load its module: modprobe %s", r.FSType, r.FSType)
	}
	dev, err := loopDevice(l.image)
	if err != nil {
		return err
	}
	defer dev.Close()
	return mount(dev.Name(), at, r.FSType, unix.MS_RDONLY|unix.MS_NODEV, "")
}

// close unmounts everything. It is quick where nobody uses it any more; what
// somebody does goes with him.
func (l *layers) close() error {
	var errs []error
	for _, d := range []string{l.root, filepath.Join(l.dir, "image"), l.dir} {
		if err := unix.Unmount(d, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			errs = append(errs, &os.PathError{Op: "unmount", Path: d, Err: err})
		}
	}
	if l.image != nil {
		errs = append(errs, l.image.Close())
	}
	if err := os.Remove(l.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func mount(source, at, kind string, flags uintptr, opts string) error {
	if err := unix.Mount(source, at, kind, flags, opts); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, at, err)
	}
	return nil
}

// loopTries bounds the race for free loop devices.
const loopTries = 64

// loopDevice connects a file with a loop device that goes when nobody has it
// open or mounted.
func loopDevice(f *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop device: %w; load the kernel module loop", err)
	}
	defer control.Close()
	cfg := &unix.LoopConfig{Fd: uint32(f.Fd())}
	cfg.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), cfg)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else was quicker
			return nil, fmt.Errorf("loop device %d: %w", n, err)
		}
	}
	return nil, errors.New("loop device: none stayed free for long enough")
}
