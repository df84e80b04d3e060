package hostnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	leaveGrace = 3 * time.Second // for a keeper whose owner is gone
	leavePoll  = 5 * time.Millisecond
)

// listener is a bound host port, not served yet: a client that comes early
// waits in the kernel's backlog.
type listener struct {
	port Port // with the host port that was chosen
	tcp  *net.TCPListener
	udp  *net.UDPConn
}

// listenAll binds every port of o or none.
func listenAll(o *Options) (ls []*listener, err error) {
	for _, p := range o.Publish {
		l, err := listen(p)
		for deadline := time.Now().Add(leaveGrace); errors.Is(err, unix.EADDRINUSE) && leaving(o, p) && time.Now().Before(deadline); l, err = listen(p) {
			time.Sleep(leavePoll)
		}
		if err != nil {
			closeBound(ls)
			return nil, publishErr(p, err, func() string { return leaseHolder(o, p) })
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// leaving says whether p is held by the keeper of an instance whose owner has just
// been killed: it is about to let go.
func leaving(o *Options, p Port) bool {
	id := leaseHolder(o, p)
	if id != "" {
		if ls, err := loadLeases(o.Root, o.Bridge); err == nil {
			if _, err := linkIndex(ls.ByID[id].Link); err == nil {
				return false
			}
		}
	}
	return heldByKeeper(p)
}

func closeBound(ls []*listener) {
	for _, l := range ls {
		if l.tcp != nil {
			_ = l.tcp.Close()
		}
		if l.udp != nil {
			_ = l.udp.Close()
		}
	}
}

func listen(p Port) (*listener, error) {
	host, family := "", "" // both families where the host has both
	if p.HostIP.IsValid() {
		host, family = p.HostIP.String(), "6"
		if p.HostIP.Is4() {
			family = "4"
		}
	}
	addr := net.JoinHostPort(host, fmt.Sprint(p.HostPort))
	l := &listener{port: p}
	if p.Protocol == "udp" {
		// The wildcard needs to learn to which address a datagram was sent, or
		// its answer leaves from another one.
		lc := net.ListenConfig{Control: wantPacketInfo}
		pc, err := lc.ListenPacket(context.Background(), "udp"+family, addr)
		if err != nil {
			return nil, err
		}
		l.udp = pc.(*net.UDPConn)
		l.port.HostPort = l.udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		return l, nil
	}
	ln, err := net.Listen("tcp"+family, addr)
	if err != nil {
		return nil, err
	}
	l.tcp = ln.(*net.TCPListener)
	l.port.HostPort = l.tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	return l, nil
}

func wantPacketInfo(network, _ string, c syscall.RawConn) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		if network == "udp6" {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
	return errors.Join(ctlErr, err)
}

// publishErr turns the failure to bind p into one line that names the port
// and, when that can be found out, who has it: the instance that holder names,
// or a process.
func publishErr(p Port, err error, holder func() string) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		by := ""
		if id := holder(); id != "" {
			by = " by instance " + shortID(id)
		} else if h := socketHolder(p); h != "" {
			by = " by " + h
		}
		return fmt.Errorf("%w: %s is taken%s; choose another host port", ErrPortInUse, p, by)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%w: %s: the host has no such address", ErrOptions, p)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: host port %s needs root (or a lower net.ipv4.ip_unprivileged_port_start)", ErrPermission, p)
	}
	return fmt.Errorf("publish %s: %w", p, err)
}

// leaseHolder is the living instance of the same bridge that publishes p. The
// file is replaced in one step, so reading it needs no lock.
func leaseHolder(o *Options, p Port) string {
	ls, err := loadLeases(o.Root, o.Bridge)
	if err != nil {
		return ""
	}
	id := ls.holderOf(p)
	if o.Alive != nil && id != "" && !o.Alive(id) {
		return ""
	}
	return id
}

// serve hands the port's traffic to the instance until close. ports is how many
// are published in all.
func (l *listener) serve(d Dialer, ports int, log *slog.Logger) interface{ close() } {
	log = log.With("port", l.port.String())
	if l.udp != nil {
		return serveUDP(l.udp, func() (Flow, error) { return d.DialUDP(l.port.Port) }, log, ports)
	}
	return serveTCP(l.tcp, func(ctx context.Context) (Stream, error) { return d.DialTCP(ctx, l.port.Port) }, log, ports)
}
