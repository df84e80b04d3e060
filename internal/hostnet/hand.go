package hostnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

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
}

// Hand describes a, and duplicates its files: the queues of the tap, then the
// sockets of the published ports. The caller closes the duplicates. Nothing
// changes here before Leave.
func (a *Attachment) Hand() (h Handed, files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	h = Handed{
		TapName: a.TapName, Queues: len(a.Queues), MAC: a.MAC, IP: a.IP, Gateway: a.Gateway,
		DNS: a.DNS, MTU: a.MTU, Bridge: a.Bridge, Ports: a.Ports,
	}
	for _, q := range a.Queues {
		f, err := duplicate(q)
		if err != nil {
			return h, files, err
		}
		files = append(files, f)
	}
	for i := range a.Ports {
		var f *os.File
		switch p := a.serving[i].(type) {
		case *tcpProxy:
			f, err = p.ln.File()
		case *udpProxy:
			f, err = p.conn.File()
		}
		if err != nil {
			return h, files, fmt.Errorf("publish %s: %w", a.Ports[i], err)
		}
		files = append(files, f)
	}
	return h, files, nil
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
func Inherit(o Options, h Handed, files []*os.File) (*Attachment, error) {
	if err := o.fill(); err != nil {
		closeAll(files)
		return nil, err
	}
	if h.Queues < 1 || h.Queues > maxQueues || len(h.Ports) > maxPublish || len(files) != h.Queues+len(h.Ports) {
		closeAll(files)
		return nil, fmt.Errorf("%w: %d files for %d queues and %d ports", ErrState, len(files), h.Queues, len(h.Ports))
	}
	o.Bridge = h.Bridge
	a := &Attachment{
		Queues: files[:h.Queues], TapName: h.TapName, MAC: h.MAC, IP: h.IP, Gateway: h.Gateway,
		DNS: h.DNS, MTU: h.MTU, Bridge: h.Bridge, Ports: h.Ports, o: o,
	}
	a.Tap = a.Queues[0]
	for i, f := range files[h.Queues:] {
		l, err := inheritPort(h.Ports[i], f)
		if err != nil {
			closeBound(a.bound)
			closeAll(files)
			return nil, fmt.Errorf("publish %s: %w", h.Ports[i], err)
		}
		a.bound = append(a.bound, l)
	}
	closeAll(files[h.Queues:]) // the listeners have copies
	return a, nil
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
func (a *Attachment) Serve() error {
	bound := a.bound
	a.bound = nil
	return a.serve(bound)
}

// Abandon lets go of what was inherited and not served; it stays the other
// process's.
func (a *Attachment) Abandon() {
	a.once.Do(func() {
		closeBound(a.bound)
		closeAll(a.Queues)
	})
}

// Leave is Close for who has handed the attachment over: lease, interface and
// ports live on. Connections that run through here go on; Leave returns when the
// last one has ended, or ctx.
func (a *Attachment) Leave(ctx context.Context) {
	a.once.Do(func() {
		closeAll(a.Queues)
		var wg sync.WaitGroup
		for _, s := range a.serving {
			if t, ok := s.(*tcpProxy); ok {
				wg.Go(t.leave)
			} else {
				s.close()
			}
		}
		ended := make(chan struct{})
		go func() { wg.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-ctx.Done():
		}
	})
}
