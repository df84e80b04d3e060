package main

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A processor that is plugged in does nothing until somebody in the guest brings it
// online. On distributions that is a rule of udev; here it is this process.

// kernelEvents is the multicast group of the kernel's own events; udev's have another.
const kernelEvents = 1

// onlineCPUs brings every processor online that comes, until the machine ends. It
// returns only what kept it from listening.
func onlineCPUs(sys string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelEvents}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS): // the second: events were lost
			continue
		case err != nil:
			return os.NewSyscallError("recvfrom", err)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid == 0 { // the kernel
			onlineCPU(sys, buf[:n])
		}
	}
}

// onlineCPU brings a processor online if the event tells of one that came.
func onlineCPU(sys string, event []byte) {
	head, _, _ := bytes.Cut(event, []byte{0})
	cpu, ok := strings.CutPrefix(string(head), "add@/devices/system/cpu/cpu")
	if !ok {
		return
	}
	if _, err := strconv.ParseUint(cpu, 10, 16); err != nil {
		return // something below one
	}
	if err := os.WriteFile(sys+"/devices/system/cpu/cpu"+cpu+"/online", []byte("1"), 0); err != nil {
		say(os.Stderr, "a processor that was plugged in stays offline: "+err.Error())
	}
}
