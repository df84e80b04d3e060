package hostnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxQueries    = 128             // under way at once, UDP and TCP together
	maxPerClient  = maxQueries / 4  // of these, for one guest: its neighbours have names to ask for, too
	queryTimeout  = 5 * time.Second // one upstream server's time for an answer
	maxDNSMessage = 65535           // RFC 1035 §4.2.2: a 16-bit length
	dnsPort       = 53
	dnsHeader     = 12 // RFC 1035 §4.1.1
	tcpIdle       = 10 * time.Second
)

// dnsForwarder passes the queries of guests to the host's name servers where
// the guests cannot reach those themselves (127.0.0.1, IPv6). It looks into
// messages only as far as it must to pair answers with queries. Several
// processes share the gateway's port 53 (SO_REUSEPORT): each serves whatever
// guest the kernel hands it.
type dnsForwarder struct {
	udp    *net.UDPConn
	tcp    net.Listener
	from   netip.Prefix // only these may ask
	paths  paths
	port   uint16 // of the upstream servers
	log    *slog.Logger
	slots  chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex         // guards what follows
	clients map[netip.Addr]int // queries under way
}

// dnsSockets are what a forwarder serves.
type dnsSockets struct {
	udp *net.UDPConn
	tcp net.Listener
}

func (s *dnsSockets) close() {
	_ = s.udp.Close()
	_ = s.tcp.Close()
}

// listenDNS binds a forwarder's port.
func listenDNS(at netip.AddrPort) (*dnsSockets, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(ctlErr, err)
	}}
	pc, err := lc.ListenPacket(context.Background(), "udp4", at.String())
	if err != nil {
		return nil, err
	}
	s := &dnsSockets{udp: pc.(*net.UDPConn)}
	at = netip.AddrPortFrom(at.Addr(), s.udp.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	if s.tcp, err = lc.Listen(context.Background(), "tcp4", at.String()); err != nil {
		_ = s.udp.Close()
		return nil, err
	}
	return s, nil
}

// forwardDNS serves s to the network from, asking servers at their port upstream.
func forwardDNS(s *dnsSockets, upstream uint16, from netip.Prefix, p paths, log *slog.Logger) *dnsForwarder {
	ctx, cancel := context.WithCancel(context.Background())
	f := &dnsForwarder{
		udp: s.udp, tcp: s.tcp, from: from, paths: p, port: upstream, log: log,
		slots: make(chan struct{}, maxQueries), ctx: ctx, cancel: cancel, clients: map[netip.Addr]int{},
	}
	f.wg.Add(2)
	go f.serveUDP()
	go f.serveTCP()
	return f
}

// inheritDNS is forwardDNS on copies of the sockets of UDP and TCP in files.
func inheritDNS(files []*os.File, from netip.Prefix, p paths, log *slog.Logger) (*dnsForwarder, error) {
	udp, err := inheritPort(Port{Protocol: "udp"}, files[0])
	if err != nil {
		return nil, err
	}
	tcp, err := inheritPort(Port{Protocol: "tcp"}, files[1])
	if err != nil {
		closeBound([]*listener{udp})
		return nil, err
	}
	return forwardDNS(&dnsSockets{udp: udp.udp, tcp: tcp.tcp}, dnsPort, from, p, log), nil
}

// begin takes a slot for a query or connection of client; a query that finds
// none is dropped and asked again. end follows when it returned true.
func (f *dnsForwarder) begin(client netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clients[client] >= maxPerClient {
		return false
	}
	select {
	case f.slots <- struct{}{}:
		f.clients[client]++
		f.wg.Add(1)
		return true
	default:
		return false
	}
}

func (f *dnsForwarder) end(client netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clients[client]--; f.clients[client] == 0 {
		delete(f.clients, client)
	}
	<-f.slots
	f.wg.Done()
}

func (f *dnsForwarder) serveUDP() {
	defer f.wg.Done()
	buf := make([]byte, maxDNSMessage)
	for {
		n, client, err := f.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if f.ctx.Err() != nil {
				return
			}
			continue // an ICMP error of some earlier answer
		}
		if n < dnsHeader || !f.from.Contains(client.Addr().Unmap()) || !f.begin(client.Addr()) {
			continue
		}
		q := append([]byte(nil), buf[:n]...)
		go func() {
			defer f.end(client.Addr())
			if a, err := f.ask(q); err == nil {
				_, _ = f.udp.WriteToUDPAddrPort(a, client)
			}
		}()
	}
}

// ask puts one query to the servers in turn.
func (f *dnsForwarder) ask(q []byte) ([]byte, error) {
	err := errors.New("no name server")
	for _, s := range hostServers(f.paths) {
		var a []byte
		if a, err = f.askOne(s, q); err == nil || f.ctx.Err() != nil {
			return a, err
		}
	}
	return nil, err
}

func (f *dnsForwarder) askOne(server netip.Addr, q []byte) ([]byte, error) {
	c, err := f.dial("udp", server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(f.ctx, func() { _ = c.Close() })
	defer stop()
	if _, err := c.Write(q); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096) // EDNS answers are 1232 or 4096 at most in practice
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		// The socket is connected and its port random; the ID is checked on
		// top. A stray answer is skipped, not believed.
		if n >= dnsHeader && buf[0] == q[0] && buf[1] == q[1] && buf[2]&0x80 != 0 {
			return buf[:n], nil
		}
	}
}

func (f *dnsForwarder) dial(network string, server netip.Addr) (net.Conn, error) {
	d := net.Dialer{Timeout: queryTimeout}
	c, err := d.DialContext(f.ctx, network, netip.AddrPortFrom(server, f.port).String())
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(queryTimeout))
}

func (f *dnsForwarder) serveTCP() {
	defer f.wg.Done()
	for {
		c, err := f.tcp.Accept()
		if err != nil {
			if f.ctx.Err() != nil {
				return
			}
			select {
			case <-time.After(acceptPause):
			case <-f.ctx.Done():
			}
			continue
		}
		ap, perr := netip.ParseAddrPort(c.RemoteAddr().String())
		if perr != nil || !f.from.Contains(ap.Addr().Unmap()) || !f.begin(ap.Addr()) {
			_ = c.Close()
			continue
		}
		go func() {
			defer f.end(ap.Addr())
			defer c.Close()
			stop := context.AfterFunc(f.ctx, func() { _ = c.Close() })
			defer stop()
			f.converse(c)
		}()
	}
}

// converse answers the queries of one TCP connection, one after the other.
func (f *dnsForwarder) converse(c net.Conn) {
	for {
		_ = c.SetDeadline(time.Now().Add(tcpIdle))
		q, err := readMessage(c)
		if err != nil {
			return
		}
		var a []byte
		for _, s := range hostServers(f.paths) {
			if a, err = f.exchangeTCP(s, q); err == nil || f.ctx.Err() != nil {
				break
			}
		}
		if a == nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(tcpIdle))
		if err := writeMessage(c, a); err != nil {
			return
		}
	}
}

func (f *dnsForwarder) exchangeTCP(server netip.Addr, q []byte) ([]byte, error) {
	c, err := f.dial("tcp", server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(f.ctx, func() { _ = c.Close() })
	defer stop()
	if err := writeMessage(c, q); err != nil {
		return nil, err
	}
	return readMessage(c)
}

// readMessage reads a message with its length before it (RFC 1035 §4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(n[:]))
	if size < dnsHeader {
		return nil, fmt.Errorf("DNS message of %d bytes is shorter than its header", size)
	}
	m := make([]byte, size)
	_, err := io.ReadFull(r, m)
	return m, err
}

func writeMessage(w io.Writer, m []byte) error {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m)))
	_, err := w.Write(append(b, m...))
	return err
}

// close ends the forwarder and waits for its goroutines.
func (f *dnsForwarder) close() {
	f.cancel()
	_ = f.udp.Close()
	_ = f.tcp.Close()
	f.wg.Wait()
}
