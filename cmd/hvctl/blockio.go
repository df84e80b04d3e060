package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// throttleFlag is a flag that bounds the I/O on a block device of the host, of
// run and of update.
type throttleFlag struct {
	name, usage string
	bytes       bool // its rate is a size
	list        func(*specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice
}

// throttleFlagsOf are docker's.
var throttleFlagsOf = []throttleFlag{
	{"device-read-bps", "read at most SIZE bytes a second from a block device of the host, `DEVICE:SIZE`", true, func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleReadBpsDevice }},
	{"device-write-bps", "write at most SIZE bytes a second to one, `DEVICE:SIZE`", true, func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleWriteBpsDevice }},
	{"device-read-iops", "read at most NUMBER times a second from one, `DEVICE:NUMBER`", false, func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleReadIOPSDevice }},
	{"device-write-iops", "write at most NUMBER times a second to one, `DEVICE:NUMBER`", false, func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleWriteIOPSDevice }},
}

// throttleFlags are their definitions; more is said after each usage.
func throttleFlags(more string) (flags []cli.Flag) {
	for _, f := range throttleFlagsOf {
		flags = append(flags, &cli.StringSliceFlag{Name: f.name, Usage: f.usage + more})
	}
	return flags
}

// throttles reads them; nil when none was given. A rate of 0, which lifts a bound,
// is for update alone.
func throttles(c *cli.Context, lift bool) (*specs.LinuxBlockIO, error) {
	out := &specs.LinuxBlockIO{}
	given := false
	var errs []error
	for _, f := range throttleFlagsOf {
		for _, s := range c.StringSlice(f.name) {
			given = true
			if err := f.add(out, s, lift); err != nil {
				errs = append(errs, fmt.Errorf("--%s %s: %w", f.name, s, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil || !given {
		return nil, err
	}
	return out, nil
}

// add puts one device's rate into its list.
func (f *throttleFlag) add(b *specs.LinuxBlockIO, s string, lift bool) error {
	at := strings.LastIndexByte(s, ':')
	if at <= 0 || at == len(s)-1 {
		return errors.New("want a device and its rate, such as /dev/sda:10M")
	}
	var rate uint64
	var err error
	if f.bytes {
		rate, err = parseSize(s[at+1:])
	} else if rate, err = strconv.ParseUint(s[at+1:], 10, 32); err != nil {
		err = fmt.Errorf("%q is no number of operations", s[at+1:])
	}
	if err != nil {
		return err
	}
	if rate == 0 && !lift {
		return errors.New("want a rate above 0")
	}
	major, minor, err := wholeDisk(s[:at])
	if err != nil {
		return err
	}
	list := f.list(b)
	for _, d := range *list {
		if d.Major == major && d.Minor == minor {
			return errors.New("this device has a rate already")
		}
	}
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	*list = append(*list, d)
	return nil
}

// wholeDisk is the number of a block device, which the kernel bounds as a whole
// only.
func wholeDisk(path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, fmt.Errorf("%s is no block device", path)
	}
	major, minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	sys, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return major, minor, nil // without sysfs the kernel judges
	}
	if _, err := os.Stat(filepath.Join(sys, "partition")); err == nil {
		return 0, 0, fmt.Errorf("%s is a partition: the kernel bounds whole disks, this one's is /dev/%s", path, filepath.Base(filepath.Dir(sys)))
	}
	return major, minor, nil
}
