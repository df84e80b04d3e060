package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Handed is what a process tells the one that goes on with its Attachment on the
// same host. The open files go beside it.
type Handed struct {
	TapName string           `json:"tap"`
	Queues  int              `json:"queues"`
	MAC     net.HardwareAddr `json:"mac"`
	IP      netip.Prefix     `json:"ip"`
	Gateway netip.Addr       `json:"gateway"`
	DNS     []netip.Addr     `json:"dns"`
	MTU     int              `json:"mtu"`
	Bridge  string           `json:"bridge"`
	Ports   []Port           `json:"ports"`
	// Keeper is the process that serves the ports, which goes on; 0: an hvctl from
	// before there were any served them itself, and hands their sockets over.
	Keeper int `json:"keeper,omitempty"`
}

// Hand describes a, and duplicates its files: the queues of the tap, then what
// reaches the keeper. The caller closes the duplicates. Nothing changes here before
// Leave.
func (a *Attachment) Hand() (h Handed, files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	if a.keeper == nil {
		return h, nil, fmt.Errorf("%w: an attachment without a keeper", ErrOptions)
	}
	h = Handed{
		TapName: a.TapName, Queues: len(a.Queues), MAC: a.MAC, IP: a.IP, Gateway: a.Gateway,
		DNS: a.DNS, MTU: a.MTU, Bridge: a.Bridge, Ports: a.Ports, Keeper: a.keeper.pid,
	}
	for _, q := range a.Queues {
		f, err := duplicate(q)
		if err != nil {
			return h, files, err
		}
		files = append(files, f)
	}
	kept, err := a.keeper.hand()
	return h, append(files, kept...), err
}

func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	cerr := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3) })
	if cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Inherit is Attach for who goes on with another process's attachment: the lease,
// the bridge and the addresses are there. It takes over files. Nothing is served
// before Serve, and nothing of the other's ends before Close.
func Inherit(o Options, h Handed, files []*os.File) (_ *Attachment, err error) {
	if err := o.fill(); err != nil {
		closeAll(files)
		return nil, err
	}
	rest := len(h.Ports)
	if h.Keeper != 0 {
		rest = 2
	}
	if h.Queues < 1 || h.Queues > maxQueues || len(h.Ports) > maxPublish || len(files) != h.Queues+rest {
		closeAll(files)
		return nil, fmt.Errorf("%w: %d files for %d queues and %d ports", ErrState, len(files), h.Queues, len(h.Ports))
	}
	o.Bridge = h.Bridge
	a := &Attachment{
		Queues: files[:h.Queues], TapName: h.TapName, MAC: h.MAC, IP: h.IP, Gateway: h.Gateway,
		DNS: h.DNS, MTU: h.MTU, Bridge: h.Bridge, Ports: h.Ports, o: o,
	}
	a.Tap = a.Queues[0]
	if files = files[h.Queues:]; h.Keeper != 0 {
		a.keeper, err = inheritKeeper(h.Keeper, files, o.Log)
	} else {
		err = a.keepAnew(files)
	}
	if err != nil {
		closeAll(a.Queues)
		return nil, err
	}
	return a, nil
}

// keepAnew starts a keeper for what another process has served itself.
func (a *Attachment) keepAnew(files []*os.File) error {
	defer closeAll(files) // the listeners have copies
	bound, err := inheritPorts(a.Ports, files)
	if err != nil {
		return err
	}
	told := a.DNS
	dns, err := a.nameServers()
	a.DNS = told // the guest was
	if err != nil {
		closeBound(bound)
		return err
	}
	return a.keep(bound, dns)
}

// inheritPorts copies the sockets in files, of which there may be more.
func inheritPorts(ports []Port, files []*os.File) (bound []*listener, err error) {
	for i, p := range ports {
		l, err := inheritPort(p, files[i])
		if err != nil {
			closeBound(bound)
			return nil, fmt.Errorf("publish %s: %w", p, err)
		}
		bound = append(bound, l)
	}
	return bound, nil
}

func inheritPort(p Port, f *os.File) (*listener, error) {
	if p.Protocol == "udp" {
		c, err := net.FilePacketConn(f)
		if err != nil {
			return nil, err
		}
		udp, ok := c.(*net.UDPConn)
		if !ok {
			return nil, fmt.Errorf("%w: the socket is none of UDP", ErrState)
		}
		return &listener{port: p, udp: udp}, nil
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("%w: the socket is none of TCP", ErrState)
	}
	return &listener{port: p, tcp: tcp}, nil
}

// Serve begins to serve what was inherited: the guest is ours.
func (a *Attachment) Serve() error { return a.keeper.tell() }

// Abandon lets go of what was inherited and not served; it stays the other
// process's.
func (a *Attachment) Abandon() { a.Leave() }

// Leave is Close for who has handed the attachment over: lease, interface and
// ports live on.
func (a *Attachment) Leave() {
	a.once.Do(func() {
		closeAll(a.Queues)
		a.keeper.leave()
	})
}
