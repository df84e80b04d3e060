package run

import (
	"errors"
	"fmt"
	"os"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// DiskArg stands in a Job's arguments for the name that its Disk has inside.
const DiskArg = "{disk}"

// What the disk is called in a container, and in a VM, whose first one is its
// root file system.
const (
	diskInContainer = "/dev/bench"
	diskInVM        = "/dev/vdb"
)

// give adds a job's disk and network to an instance's configuration.
func give(cfg *workload.Config, j Job) {
	if j.Net != nil {
		cfg.Net = workload.Network{Mode: workload.NetBridge, Limit: *j.Net}
	}
	if j.Disk == nil {
		return
	}
	name := diskInVM
	if cfg.Backend == "vm" {
		cfg.VM.Disks = append(cfg.VM.Disks, workload.Disk{Path: j.Disk.Path, Cache: "none"})
	} else {
		name = diskInContainer
		if cfg.Spec.Linux == nil {
			cfg.Spec.Linux = &specs.Linux{}
		}
		cfg.Spec.Linux.Devices = append(cfg.Spec.Linux.Devices, specs.LinuxDevice{Path: name, Type: "b", Major: j.Disk.Major, Minor: j.Disk.Minor})
	}
	cfg.Spec.Process.Args = named(cfg.Spec.Process.Args, name)
}

// named is argv with the disk's name in it.
func named(argv []string, name string) (out []string) {
	for _, a := range argv {
		if a == DiskArg {
			a = name
		}
		out = append(out, a)
	}
	return out
}

const loopTries = 64 // bounds the race for free loop devices

// LoopDisk makes a block device of size bytes of a file in dir, which both go when
// it is closed and nobody uses it any more.
func LoopDisk(dir string, size int64) (_ *Disk, err error) {
	f, err := os.CreateTemp(dir, "disk")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("a disk to try limits on: %w (kernel module loop)", err)
	}
	defer control.Close()
	cfg := &unix.LoopConfig{Fd: uint32(f.Fd())}
	cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if err = unix.IoctlLoopConfigure(int(dev.Fd()), cfg); err == nil {
			err = unix.Fstat(int(dev.Fd()), &st)
		}
		if err == nil {
			return &Disk{Device{dev.Name(), int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))}, dev}, nil
		}
		if !errors.Is(err, unix.EBUSY) { // else somebody was quicker
			return nil, errors.Join(fmt.Errorf("%s: %w", dev.Name(), err), dev.Close())
		}
		if err := dev.Close(); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("loop devices: none stayed free for long enough")
}
