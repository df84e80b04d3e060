package hostnet

import (
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// InNetNS runs f on a thread in the network namespace ns. The thread ends with
// it, for nobody else is to get it.
func InNetNS(ns *os.File, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- wrap("enter the network namespace", os.NewSyscallError("setns", err))
			return
		}
		done <- f()
	}()
	return <-done
}

// handleIn talks to the kernel about the network namespace ns. The netlink
// library's own way would move the thread back afterwards, which who is root in a
// user namespace only has no right to.
func handleIn(ns *os.File) (h *netlink.Handle, err error) {
	err = InNetNS(ns, func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return h, wrapNil("open a netlink socket in the container", err)
}
