package migrate

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace, kept alive by a thread that is in it. Its
// name nobody knows, so nothing is left of it when the processes in it and the
// thread have ended.
type namespace struct {
	work chan func()
	fd   *os.File
}

func newNamespace() (*namespace, error) {
	n := &namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
		if err != nil {
			return
		}
		for f := range n.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("network namespace (needs root): %w", err)
	}
	return n, nil
}

func (n *namespace) close() {
	close(n.work)
	_ = n.fd.Close()
}

// do runs f in the namespace. Sockets that f makes, and processes that it
// starts, stay there.
func (n *namespace) do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}

func (n *namespace) start(c *exec.Cmd) error { return n.do(c.Start) }

// The ends of the link: its name in both namespaces, and their addresses.
const (
	linkName = "hvbench"
	sourceIP = "10.199.7.1"
	destIP   = "10.199.7.2"
)

// link joins two new namespaces by a veth pair that carries rate bytes a second
// each way.
type link struct{ from, to *namespace }

func newLink(rate uint64) (l *link, err error) {
	l = &link{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.from, err = newNamespace(); err != nil {
		return l, err
	}
	if l.to, err = newNamespace(); err != nil {
		return l, err
	}
	err = l.from.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: linkName, MTU: 1500}, PeerName: linkName, PeerNamespace: netlink.NsFd(int(l.to.fd.Fd())),
		})
	})
	if err != nil {
		return l, fmt.Errorf("veth pair: %w", err)
	}
	for _, end := range []struct {
		n    *namespace
		addr string
	}{{l.from, sourceIP}, {l.to, destIP}} {
		if err = end.n.do(func() error { return setUp(end.addr, rate) }); err != nil {
			return l, err
		}
	}
	return l, nil
}

func (l *link) close() {
	for _, n := range []*namespace{l.from, l.to} {
		if n != nil {
			n.close()
		}
	}
}

// bucket is how many bytes may pass at once: two of the largest packets that TCP
// makes.
const bucket = 128 << 10

// setUp gives this namespace's end an address and its rate.
func setUp(addr string, rate uint64) error {
	dev, err := netlink.LinkByName(linkName)
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(addr + "/24")
	if err != nil {
		return err
	}
	// The queue holds 20 ms of data: with more, TCP fills it, and whoever believes
	// the socket's buffer mistakes the queue for the link.
	q := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Buffer: netlink.Xmittime(rate, bucket), Limit: uint32(rate/50) + bucket,
	}
	return errors.Join(netlink.AddrAdd(dev, a), netlink.LinkSetUp(lo), netlink.LinkSetUp(dev), wrap("tc qdisc tbf", netlink.QdiscAdd(q)))
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// sent returns the bytes that the source's end has sent so far, headers and all.
func (l *link) sent() (n uint64, err error) {
	err = l.from.do(func() error {
		dev, err := netlink.LinkByName(linkName)
		if err == nil {
			n = dev.Attrs().Statistics.TxBytes
		}
		return err
	})
	return n, err
}

// plain measures what a socket carries over the link, in bytes a second.
func (l *link) plain(bytes int) (rate float64, err error) {
	var at net.Listener
	if err := l.to.do(func() (err error) { at, err = net.Listen("tcp", destIP+":0"); return err }); err != nil {
		return 0, err
	}
	defer at.Close()
	type result struct {
		rate float64
		err  error
	}
	got := make(chan result, 1)
	go func() {
		r, err := receiveAll(at, bytes)
		got <- result{r, err}
	}()
	var c net.Conn
	if err := l.from.do(func() (err error) { c, err = net.Dial("tcp", at.Addr().String()); return err }); err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	for n := 0; n < bytes; n += len(buf) {
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
	}
	r := <-got
	return r.rate, r.err
}
