package hostnet

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// vnetHdrLen is the size of struct virtio_net_hdr_mrg_rxbuf, which precedes
// every frame on the tap as it does in the rings of a VIRTIO 1.x device.
const vnetHdrLen = 12

const tunDevice = "/dev/net/tun"

// openTap makes a tap called name with n queues. The kernel removes it when
// the last descriptor is closed, so it cannot outlive the process. The offload
// flags are left to the device, which knows what the driver negotiated.
func openTap(tun, name string, n int) (queues []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(queues)
			queues = nil
		}
	}()
	for i := range n {
		f, err := openTapQueue(tun, name, i, n > 1)
		if err != nil {
			return queues, err
		}
		queues = append(queues, f)
	}
	return queues, nil
}

func openTapQueue(tun, name string, i int, multi bool) (*os.File, error) {
	fd, err := unix.Open(tun, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, wrap("open /dev/net/tun", err)
	}
	return makeTap(fd, name, i, multi)
}

// anew is a descriptor of the tun device that f leads to: opened now, or when f is
// open for reading and writing already, f's own. The kernel makes taps in the
// network namespace that the device was opened in.
func anew(f *os.File) (int, error) {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	if flags&unix.O_PATH == 0 {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		return fd, os.NewSyscallError("fcntl", err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	return fd, wrapNil("open /dev/net/tun", err)
}

// makeTap makes the i-th queue of a tap of an opened tun device, which it owns.
func makeTap(fd int, name string, i int, multi bool) (*os.File, error) {
	flags := uint16(0)
	if i == 0 {
		flags = unix.IFF_TUN_EXCL // never join somebody's persistent tap
	}
	return setTap(fd, name, multi, flags)
}

// setTap makes an opened device, which it owns, a queue of the tap called name.
func setTap(fd int, name string, multi bool, flags uint16) (*os.File, error) {
	fail := func(what string, err error) (*os.File, error) {
		unix.Close(fd)
		return nil, wrap(fmt.Sprintf("%s %s", what, name), os.NewSyscallError("ioctl", err))
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return fail("name the tap", err)
	}
	flags |= unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fail("make the tap", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHdrLen); err != nil {
		return fail("set the header size of the tap", err)
	}
	// Only now: the poller refuses a descriptor with no interface behind it.
	return os.NewFile(uintptr(fd), name), nil
}

func closeAll(fs []*os.File) {
	for _, f := range fs {
		_ = f.Close() // a tap's close reports nothing worth knowing
	}
}
