package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attachment is an instance's place on the network. Its fields do not change
// after Attach; DNS, Gateway and IP are what the guest is told.
type Attachment struct {
	Tap     *os.File         // the first queue; frames carry a 12-byte vnet header
	Queues  []*os.File       // every queue, Tap included; none with Options.NetNS
	Socket  *os.File         // in place of a tap: frames as they are on one, without segments; with AttachUser
	TapName string           // the host's interface, which may be one end of a pair
	MAC     net.HardwareAddr // the guest's
	IP      netip.Prefix     // the guest's, with the length of the network
	Gateway netip.Addr
	DNS     []netip.Addr
	MTU     int
	Bridge  string
	Ports   []Port // published, with the host ports that were chosen

	o       Options
	user    *userProcess           // with AttachUser
	cni     *cniLink               // with AttachCNI
	ns      *os.File               // the container's, with AttachUser; the instance's, with AttachCNI
	paired  bool                   // the host's end of a pair was made
	serving []interface{ close() } // proxies and the DNS forwarder
	keeper  *keeper                // who does that instead
	once    sync.Once
	closed  error
}

// Attach gives the instance o.ID a tap on the bridge, or an interface in its
// network namespace, and makes the bridge when it is the first. The ports are bound before anything else, so that a taken one
// is known before a guest is started. ctx bounds the waiting for the lock
// only. Test errors with errors.Is against this package's sentinels.
func Attach(ctx context.Context, o Options) (_ *Attachment, err error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	a := &Attachment{o: o, Bridge: o.Bridge}
	bound, err := listenAll(&o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeBound(bound)
		}
	}()
	for _, l := range bound {
		a.Ports = append(a.Ports, l.port)
	}
	if err := a.join(ctx); err != nil {
		return nil, err
	}
	if err := a.begin(bound); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// join takes a lease and plugs an interface in, all under the lock.
func (a *Attachment) join(ctx context.Context) (err error) {
	unlock, err := lock(ctx, a.o.Root)
	if err != nil {
		return err
	}
	defer unlock()
	ls, err := loadLeases(a.o.Root, a.o.Bridge)
	if err != nil {
		return err
	}
	b, err := open(&a.o)
	if err != nil {
		return err
	}
	defer b.h.Close()
	if le, ok := ls.ByID[a.o.ID]; ok && b.exists(le.Link) {
		return fmt.Errorf("%w: interface %s exists: instance %s is attached already", ErrInterface, le.Link, shortID(a.o.ID))
	}
	defer func() {
		if err != nil {
			closeAll(a.Queues)
			a.Queues = nil
			if a.o.NetNS != nil && !a.paired { // one of that name is somebody else's
				delete(ls.ByID, a.o.ID)
			}
			err = errors.Join(err, leave(ls, b, a.o.ID))
		}
	}()
	want := ls.Subnet
	if len(ls.ByID) == 0 {
		want = netip.Prefix{} // nobody holds it: choose afresh
	}
	if err := b.ensure(want); err != nil {
		return err
	}
	ls.Subnet = b.subnet
	le, err := ls.take(&a.o, func() { ls.reclaim(a.o.ID, b.alive) })
	if err != nil {
		return err
	}
	le.Ports = a.Ports
	ls.ByID[a.o.ID] = le
	if a.MAC, err = net.ParseMAC(le.MAC); err != nil {
		return err
	}
	if err := a.link(b, le.Link); err != nil {
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w: instance %s seems to be attached already: %w", ErrInterface, shortID(a.o.ID), err)
		}
		return err
	}
	if !a.o.NoNAT {
		err := guard(a.o.Bridge, le.Link, a.MAC, le.IP)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			a.o.Log.Warn("this kernel cannot keep guests from using each other's addresses (NF_TABLES_NETDEV)", "err", err)
		} else if err != nil {
			return err
		}
	}
	if a.MTU, err = b.plug(le.Link); err != nil {
		return err
	}
	if err := ls.save(); err != nil {
		return err
	}
	a.TapName = le.Link
	a.IP = netip.PrefixFrom(le.IP, b.subnet.Bits())
	a.Gateway = gateway(b.subnet)
	if a.o.NetNS != nil {
		return setInside(a.o.NetNS, a.IP, a.Gateway, a.MTU)
	}
	a.Tap = a.Queues[0]
	return nil
}

// link makes the host's interface, a tap or one end of a pair.
func (a *Attachment) link(b *bridge, name string) (err error) {
	if a.o.NetNS != nil {
		err = b.makeVeth(name, a.MAC, a.o.NetNS)
		a.paired = err == nil
		return err
	}
	a.Queues, err = openTap(tunDevice, name, a.o.Queues)
	return err
}

// begin settles the guest's name servers, and starts the proxies, or has a keeper
// do that. It owns bound.
func (a *Attachment) begin(bound []*listener) error {
	dns, err := a.nameServers()
	switch {
	case err != nil:
		closeBound(bound)
		return err
	case len(a.o.Keeper) == 0:
		var f *dnsForwarder
		if dns != nil {
			f = forwardDNS(dns, dnsPort, a.IP.Masked(), a.o.paths, a.o.Log)
		}
		a.serve(bound, f)
		return nil
	}
	if err := a.keep(bound, dns); err != nil {
		return err
	}
	return a.keeper.tell()
}

// serve starts the proxies.
func (a *Attachment) serve(bound []*listener, f *dnsForwarder) {
	for _, l := range bound {
		a.serving = append(a.serving, l.serve(kernelDialer(a.IP.Addr()), len(bound), a.o.Log))
	}
	if f != nil {
		a.serving = append(a.serving, f)
	}
}

// nameServers settles which ones the guest is told of. Where it cannot reach the
// host's, somebody has to serve the sockets that are returned.
func (a *Attachment) nameServers() (*dnsSockets, error) {
	if a.DNS = a.o.DNS; len(a.DNS) > 0 {
		return nil, nil
	}
	servers := hostServers(a.o.paths)
	if a.DNS = reachable(servers); len(a.DNS) > 0 || len(servers) == 0 {
		return nil, nil
	}
	a.DNS = []netip.Addr{a.Gateway}
	s, err := listenDNS(netip.AddrPortFrom(a.Gateway, dnsPort))
	if errors.Is(err, unix.EADDRINUSE) {
		a.o.Log.Info("a name server of the host listens on the gateway address; guests use it", "addr", a.Gateway)
		return nil, nil
	}
	return s, wrapNil("forward DNS", err)
}

// keep starts a keeper, which begins when it is told. bound and dns are closed
// here.
func (a *Attachment) keep(bound []*listener, dns *dnsSockets) (err error) {
	defer closeBound(bound)
	k := kept{
		Root: a.o.Root, ID: a.o.ID, Bridge: a.o.Bridge, NoNAT: a.o.NoNAT, TapName: a.TapName, IP: a.IP, Ports: a.Ports,
		DNS: dns != nil, Paths: [2]string{a.o.paths.resolvConf, a.o.paths.resolvedRun},
	}
	if dns != nil {
		defer dns.close()
	}
	if k.Index, err = linkIndex(a.TapName); err != nil {
		return err
	}
	files, err := filesOf(bound, dns)
	defer closeAll(files)
	if err == nil {
		a.keeper, err = startKeeper(a.o.Keeper, k, files, a.o.Apart, a.o.Log)
	}
	return err
}

func linkIndex(name string) (int, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return 0, wrap("look up interface "+name, err)
	}
	return link.Attrs().Index, nil
}

// filesOf duplicates sockets.
func filesOf(bound []*listener, dns *dnsSockets) (files []*os.File, err error) {
	var all []interface{ File() (*os.File, error) }
	for _, l := range bound {
		if l.tcp != nil {
			all = append(all, l.tcp)
		} else {
			all = append(all, l.udp)
		}
	}
	if dns != nil {
		all = append(all, dns.udp, dns.tcp.(*net.TCPListener))
	}
	for _, s := range all {
		f, err := s.File()
		if err != nil {
			return files, fmt.Errorf("sockets of published ports: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// Close takes the instance off the network: published ports, tap, lease, and
// when it was the last one, bridge and NAT. The device must no longer use the
// tap. Later calls return what the first returned.
func (a *Attachment) Close() error {
	a.once.Do(func() {
		for _, s := range a.serving {
			s.close()
		}
		closeAll(a.Queues)
		if a.user != nil {
			a.user.close()
		}
		kept := a.keeper != nil && a.keeper.told == nil
		switch {
		case kept:
			if a.cni != nil {
				_ = a.cni.record.Close() // and with it the lock, which the keeper takes
			}
			a.closed = a.keeper.end()
		case a.cni != nil:
			a.closed = a.cni.leave(context.Background())
		}
		if a.keeper != nil {
			a.keeper.leave()
		}
		for _, f := range []*os.File{a.Socket, a.ns} {
			if f != nil {
				_ = f.Close() // the device may have closed it
			}
		}
		if a.o.ID == "" || kept { // there is no lease, or it is the keeper's
			return
		}
		a.closed = release(context.Background(), &a.o, a.o.ID)
	})
	return a.closed
}

// Cleanup takes back the leases of instances that died under o.Root, and
// removes the bridge and its NAT when nobody is left. Only Root, Bridge,
// NoNAT, Alive and Log of o are used. It is harmless at any time.
func Cleanup(ctx context.Context, o Options) error {
	o.ID = "cleanup"
	if err := o.fill(); err != nil {
		return err
	}
	if _, err := os.Stat(leasePath(o.Root, o.Bridge)); errors.Is(err, os.ErrNotExist) {
		// Nothing recorded; a bridge may be left by a process killed before it
		// wrote its lease.
		if _, err := net.InterfaceByName(o.Bridge); err != nil {
			return nil
		}
	}
	return release(ctx, &o, "")
}

// release drops the lease of id and those of the dead.
func release(ctx context.Context, o *Options, id string) error {
	unlock, err := lock(ctx, o.Root)
	if err != nil {
		return err
	}
	defer unlock()
	ls, err := loadLeases(o.Root, o.Bridge)
	if err != nil {
		return err
	}
	b, err := open(o)
	if err != nil {
		return err
	}
	defer b.h.Close()
	return leave(ls, b, id)
}

// leave drops the lease of id, if any, and those of the dead, and removes the
// bridge when no lease is left. The lock is held.
func leave(ls *leases, b *bridge, id string) error {
	own := ls.ByID[id].Link
	delete(ls.ByID, id)
	err := b.unplug(own)
	n := 0
	for dead, le := range ls.ByID {
		if !b.alive(dead, le.Link) {
			delete(ls.ByID, dead)
			err = errors.Join(err, b.unplug(le.Link))
			n++
		}
	}
	if n > 0 {
		b.o.Log.Info("took back the addresses of instances that died", "count", n)
	}
	if len(ls.ByID) == 0 {
		err = errors.Join(err, b.remove(own))
	}
	return errors.Join(err, ls.save())
}

// open connects to the kernel in the calling thread's network namespace.
func open(o *Options) (*bridge, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, wrap("open a netlink socket", err)
	}
	return &bridge{h: h, o: o}, nil
}

// alive says whether the owner of a lease lives.
func (b *bridge) alive(id, link string) bool {
	if b.o.Alive != nil {
		return b.o.Alive(id)
	}
	return b.exists(link)
}

// exists says whether an interface exists; when in doubt it does.
func (b *bridge) exists(link string) bool {
	_, err := b.h.LinkByName(link)
	var missing netlink.LinkNotFoundError
	return !errors.As(err, &missing)
}
