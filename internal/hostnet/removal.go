package hostnet

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Removal notices that an interface is removed. Whoever reads frames of a tap is
// told so by the kernel; with vhost nobody reads. It owns a socket, which wakes its
// waiter for that interface and that event alone.
type Removal struct{ f *os.File }

// WatchRemoval watches the host's interface of the attachment. It needs a socket,
// so it comes before the process confines itself.
func (a *Attachment) WatchRemoval() (*Removal, error) {
	link, err := netlink.LinkByName(a.TapName)
	if err != nil {
		return nil, wrap("look up interface "+a.TapName, err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	r := &Removal{os.NewFile(uintptr(fd), "removal of "+a.TapName)}
	if err := r.subscribe(fd, link.Attrs().Index); err != nil {
		return nil, errors.Join(fmt.Errorf("watch interface %s: %w", a.TapName, err), r.Close())
	}
	return r, nil
}

// subscribe asks for what happens to links, of which a filter leaves one thing.
func (r *Removal) subscribe(fd, index int) error {
	filter := onlyRemoval(uint32(index))
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}))
}

// onlyRemoval is a filter that passes RTM_DELLINK of the interface with the index. The
// kernel's numbers have the host's order, and a filter's loads the network's.
func onlyRemoval(index uint32) []unix.SockFilter {
	const kind, ifIndex = 4, unix.SizeofNlMsghdr + 4 // nlmsghdr.nlmsg_type, ifinfomsg.ifi_index
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: kind},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(bits.ReverseBytes16(unix.RTM_DELLINK)), Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: ifIndex},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: bits.ReverseBytes32(index), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// Wait returns nil when the interface has been removed, and ctx's error when that
// ends first. One goroutine calls it, once.
func (r *Removal) Wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = r.f.SetReadDeadline(time.Unix(1, 0)) })()
	var b [4096]byte
	_, err := r.f.Read(b[:])
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, syscall.ENOBUFS): // messages were lost, and only one kind comes
		return nil
	}
	return err
}

// Close ends the watch, and a Wait.
func (r *Removal) Close() error { return r.f.Close() }
