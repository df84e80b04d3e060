package hostnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// UserOptions say what an instance wants of a user-mode network.
type UserOptions struct {
	// Program is hvctl-net; empty: the one beside this program.
	Program string
	// ID is the instance's; a MAC address is derived from it.
	ID string
	// MAC is the guest's address; nil derives one from ID.
	MAC net.HardwareAddr
	// IP is the wanted address; zero takes UserIP.
	IP netip.Addr
	// DNS are the name servers for the guest; empty passes on the host's.
	DNS []netip.Addr
	// Publish lists the ports to publish on the host.
	Publish []Port
	// ReachHost makes the gateway lead to the host's 127.0.0.1.
	ReachHost bool
	// NetNS is the network namespace of a container, which gets a tap called
	// eth0; nil: the frames go through Attachment.Socket.
	NetNS *os.File
	// Started is called with the process's ID before that is told what to do; its
	// error ends it. May be nil.
	Started func(pid int) error
	// Apart is Options.Apart for Program.
	Apart bool
	// Log may be nil.
	Log *slog.Logger
}

// closeGrace is how long hvctl-net may take to end.
const closeGrace = 5 * time.Second

// AttachUser gives an instance a user-mode network. It starts o.Program for
// that, which ends with the Attachment or with this process. When it ends before,
// the instance goes on without a network and its published ports are free;
// Attachment.Lost says so. ctx bounds the start.
func AttachUser(ctx context.Context, o UserOptions) (_ *Attachment, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Program == "" {
		if o.Program, err = besideUs(); err != nil {
			return nil, err
		}
	}
	c := UserConfig{MAC: o.MAC, IP: o.IP, ReachHost: o.ReachHost, Publish: o.Publish}
	if c.MAC == nil {
		c.MAC = DeriveMAC(o.ID)
	}
	if !c.IP.IsValid() {
		c.IP = UserIP
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	a := &Attachment{
		MAC: c.MAC, IP: netip.PrefixFrom(c.IP, UserSubnet.Bits()), Gateway: UserGateway, DNS: o.DNS, MTU: UserMTU,
	}
	if len(a.DNS) == 0 {
		a.DNS = userServers(len(NameServers()))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	var theirs *os.File
	if o.NetNS != nil {
		theirs, err = a.tapIn(o.NetNS)
	} else {
		a.Socket, theirs, err = frameSockets()
	}
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	a.user, err = startUser(o.Program, theirs, o.Apart, o.Log)
	if err != nil {
		return nil, err
	}
	if o.Started != nil {
		if err := o.Started(a.user.proc.Pid); err != nil {
			return nil, fmt.Errorf("user-mode network: %w", err)
		}
	}
	a.Ports, err = a.user.tell(ctx, &c)
	return a, err
}

// besideUs is the program hvctl-net.
func besideUs() (string, error) {
	self, err := os.Executable()
	return filepath.Join(filepath.Dir(self), "hvctl-net"), err
}

// userServers are the addresses of the plan that lead to n name servers.
func userServers(n int) (out []netip.Addr) {
	for at := UserDNS; len(out) < min(n, MaxUserDNS); at = at.Next() {
		out = append(out, at)
	}
	return out
}

// frameSockets is a pair of sockets that keeps frames apart and tells one end
// when the other is closed.
func frameSockets() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "frames"), os.NewFile(uintptr(fds[1]), "frames"), nil
}

// tapIn makes the instance's interface in a network namespace.
func (a *Attachment) tapIn(ns *os.File) (tap *os.File, err error) {
	err = InNetNS(ns, func() error {
		q, err := openTap(tunDevice, insideName, 1)
		if errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%w: a container's user-mode network needs %s, which everybody may open as udev makes it; "+
				"have root do chmod 666 %s, or choose --network none", ErrPermission, tunDevice, tunDevice)
		}
		if err != nil {
			return err
		}
		tap = q[0]
		return asTap(tap, a.MAC)
	})
	if err == nil {
		err = setInside(ns, a.IP, a.Gateway, a.MTU)
	}
	if err != nil && tap != nil {
		tap.Close()
	}
	if err == nil {
		a.ns, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()))
	}
	return tap, err
}

// asTap gives the tap in this namespace its address. Checksums are left out on
// it: there is no wire.
func asTap(tap *os.File, mac net.HardwareAddr) error {
	rc, err := tap.SyscallConn()
	if err != nil {
		return err
	}
	var offload error
	err = rc.Control(func(fd uintptr) { offload = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, unix.TUN_F_CSUM) })
	if err = errors.Join(err, os.NewSyscallError("TUNSETOFFLOAD", offload)); err != nil {
		return err
	}
	link, err := netlink.LinkByName(insideName)
	if err == nil {
		err = netlink.LinkSetHardwareAddr(link, mac)
	}
	return wrapNil("set the container's Ethernet address", err)
}

// userProcess is hvctl-net.
type userProcess struct {
	proc    *os.Process
	control net.Conn
	log     *slog.Logger
	closing atomic.Bool
	ended   chan struct{}
	lost    string // why it ended too early; before ended is closed
}

func startUser(program string, frames *os.File, apart bool, log *slog.Logger) (*userProcess, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close() // FileConn has its own copy
	defer theirs.Close()
	u := &userProcess{log: log, ended: make(chan struct{})}
	if u.control, err = net.FileConn(ours); err != nil {
		return nil, err
	}
	u.proc, err = start(program, []string{"hvctl-net", "user"}, apart, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{nil, nil, os.Stderr, frames, theirs}, Sys: &syscall.SysProcAttr{},
	})
	if err != nil {
		u.control.Close()
		return nil, fmt.Errorf("user-mode network: %w", err)
	}
	go u.wait()
	return u, nil
}

// wait notes how the process ended.
func (u *userProcess) wait() {
	defer close(u.ended)
	st, err := u.proc.Wait()
	if u.closing.Load() {
		return
	}
	u.lost = fmt.Sprint(st)
	if err != nil {
		u.lost = err.Error()
	}
	u.log.Warn("the program of the user-mode network has ended; the instance goes on without a network", "program", "hvctl-net", "how", u.lost)
}

// tell hands over the configuration and waits for the answer.
func (u *userProcess) tell(ctx context.Context, c *UserConfig) ([]Port, error) {
	stop := context.AfterFunc(ctx, func() { _ = u.control.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := json.NewEncoder(u.control).Encode(c)
	var r UserReady
	if err == nil {
		err = json.NewDecoder(io.LimitReader(u.control, 1<<20)).Decode(&r)
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("user-mode network: hvctl-net gave no answer: %w", err)
	case r.Error != "":
		return nil, errors.New(r.Error)
	}
	return r.Ports, nil
}

// close ends the process and waits for it.
func (u *userProcess) close() {
	u.closing.Store(true)
	_ = u.control.Close()
	select {
	case <-u.ended:
	case <-time.After(closeGrace):
		u.log.Warn("hvctl-net did not end in time; it is killed")
		if err := u.proc.Kill(); err != nil { // it is another user's: it goes with the cgroup
			u.log.Warn("hvctl-net cannot be killed", "err", err)
			return
		}
		<-u.ended
	}
}

// Lost says why the instance has no network any more; empty: it has.
func (a *Attachment) Lost() string {
	if a.keeper != nil && a.cni == nil {
		return a.keeper.lost()
	}
	if a.user == nil {
		return ""
	}
	select {
	case <-a.user.ended:
		return a.user.lost
	default:
		return ""
	}
}

// Describe puts what `inspect` tells of the attachment into m: its interface on
// the host and its bridge, or the process of a user-mode network, and why that
// has ended, or a CNI network, and what its plugins say of it now.
func (a *Attachment) Describe(m map[string]any) {
	m["mac"] = a.MAC.String()
	switch {
	case a.cni != nil:
		m["network"], m["networkCheck"] = a.cni.request.Network, a.check()
		return
	case a.user != nil:
		m["networkPid"] = a.user.proc.Pid
	default:
		m["interface"], m["bridge"] = a.TapName, a.Bridge
		if a.keeper != nil {
			m["networkPid"] = a.keeper.pid
		}
	}
	if lost := a.Lost(); lost != "" {
		m["networkLost"] = lost
	}
}

// userTraffic is Traffic of a tap in another namespace.
func (a *Attachment) userTraffic() (rx, tx uint64, err error) {
	h, err := handleIn(a.ns)
	if err != nil {
		return 0, 0, err
	}
	defer h.Close()
	link, err := h.LinkByName(insideName)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return 0, 0, nil // it went with its program
	}
	if err != nil {
		return 0, 0, wrap("look up the container's interface", err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return 0, 0, nil
	}
	return s.RxBytes, s.TxBytes, nil
}
