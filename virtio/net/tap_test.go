package net

import (
	"bytes"
	"encoding/binary"
	stdnet "net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

const childEnv = "VIRTIO_NET_CHILD"

// inNetns runs the calling test once more in a process with a network
// namespace of its own; false in the process that only waits for that.
func inNetns(t *testing.T, needs ...testenv.Need) bool {
	t.Helper()
	testenv.Require(t, append([]testenv.Need{testenv.Root}, needs...)...)
	if os.Getenv(childEnv) == t.Name() {
		return true
	}
	c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	c.Env = append(os.Environ(), childEnv+"="+t.Name())
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := c.CombinedOutput()
	t.Logf("in a fresh network namespace:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatal("the test did not run there")
	}
	return false
}

var (
	hostIP  = stdnet.IPv4(10, 9, 8, 1).To4()
	guestIP = stdnet.IPv4(10, 9, 8, 2).To4()
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeTap makes a tap with an address and a fixed neighbour, the guest.
func makeTap(t *testing.T, name string, queues int) (fs []*os.File, link netlink.Link) {
	t.Helper()
	for range queues {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		check(t, err)
		ifr, err := unix.NewIfreq(name)
		check(t, err)
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if queues > 1 {
			flags |= unix.IFF_MULTI_QUEUE
		}
		ifr.SetUint16(flags)
		check(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
		check(t, unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, HeaderLen))
		f := os.NewFile(uintptr(fd), name)
		t.Cleanup(func() { f.Close() })
		fs = append(fs, f)
	}
	link, err := netlink.LinkByName(name)
	check(t, err)
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0) // no frames of its own
	check(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: &stdnet.IPNet{IP: hostIP, Mask: stdnet.CIDRMask(24, 32)}}))
	check(t, netlink.LinkSetUp(link))
	check(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: guestIP, HardwareAddr: testMAC[:]}))
	return fs, link
}

func tapDevice(t *testing.T, fs []*os.File) *Device {
	t.Helper()
	o := Options{MAC: testMAC}
	for _, f := range fs {
		b, err := NewFile(f)
		check(t, err)
		o.Backends = append(o.Backends, b)
	}
	d, err := New(o)
	check(t, err)
	return d
}

// receiveUDP returns the next UDP frame that the device receives.
func receiveUDP(t *testing.T, q *virtiotest.Queue) []byte {
	t.Helper()
	for {
		q.Add(virtiotest.In(2000))
		q.Kick()
		u := q.Wait()
		f := u.In[:u.Written]
		if len(f) > HeaderLen+34 && binary.BigEndian.Uint16(f[HeaderLen+12:]) == 0x800 && f[HeaderLen+14+9] == unix.IPPROTO_UDP {
			return f
		}
	}
}

var ping, pong = []byte("ping from the host"), []byte("ping from the guest")

// dialGuest is the host's socket to the guest.
func dialGuest(t *testing.T) *stdnet.UDPConn {
	t.Helper()
	c, err := stdnet.DialUDP("udp4", nil, &stdnet.UDPAddr{IP: guestIP, Port: 9})
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// getPing sends a datagram to the guest and returns the flags that it comes with.
func getPing(t *testing.T, c *stdnet.UDPConn, d *virtiotest.Driver) (flags byte) {
	t.Helper()
	_, err := c.Write(ping)
	check(t, err)
	f := receiveUDP(t, d.Queue(0))
	if !bytes.HasSuffix(f, ping) {
		t.Errorf("received %x", f)
	}
	return f[0]
}

func listenHost(t *testing.T) *stdnet.UDPConn {
	t.Helper()
	u, err := stdnet.ListenUDP("udp4", &stdnet.UDPAddr{IP: hostIP, Port: 7})
	check(t, err)
	t.Cleanup(func() { u.Close() })
	return u
}

// sendPing sends a datagram to the host.
func sendPing(t *testing.T, u *stdnet.UDPConn, d *virtiotest.Driver, link netlink.Link) {
	t.Helper()
	d.Queue(1).Do(virtiotest.Out(udpFrame(link.Attrs().HardwareAddr, pong)))
	buf := make([]byte, 100)
	check(t, u.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, from, err := u.ReadFromUDP(buf)
	if err != nil || !bytes.Equal(buf[:n], pong) || !from.IP.Equal(guestIP) {
		t.Errorf("%q from %v, %v", buf[:n], from, err)
	}
}

func TestTapOffloadsAndRestore(t *testing.T) {
	if !inNetns(t) {
		return
	}
	const needsCsum = 1
	fs, link := makeTap(t, "tap0", 1)
	dev := tapDevice(t, fs)
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	if !d.Features.Has(featGuestCSUM | featGuestTSO4 | featGuestTSO6 | featHostTSO4 | featHostTSO6 | featCSUM) {
		t.Errorf("offered %#x", uint64(d.Features))
	}
	c := dialGuest(t)
	get := func(d *virtiotest.Driver) (flags byte) {
		t.Helper()
		return getPing(t, c, d)
	}
	if get(d)&needsCsum == 0 {
		t.Error("the host computed a checksum that the driver offered to")
	}
	if ctrl(d, classOffloads, cmdOffloads, make([]byte, 8)...) != ackOK || get(d)&needsCsum != 0 {
		t.Error("offloads stayed on after the command")
	}
	d.Renew()
	if get(d)&needsCsum == 0 {
		t.Error("offloads stayed off after a reset")
	}

	// A frame whose checksum is left to the host.
	u := listenHost(t)
	send := func(d *virtiotest.Driver) {
		t.Helper()
		sendPing(t, u, d, link)
	}
	send(d)

	// Restored on another tap: the offloads are set there.
	d.Stop()
	transport, section := d.Save()
	check(t, fs[0].Close()) // the tap goes, and its address
	fs, link = makeTap(t, "tap1", 1)
	d.Load(func() virtio.Device { return tapDevice(t, fs) }, nil, transport, section)
	d.Resume()
	if get(d)&needsCsum == 0 {
		t.Error("offloads are off after the restore")
	}
	send(d)

	// A header that makes no sense is refused by the kernel, and counted.
	dev = d.Link.Core().Device().(*Device)
	f := udpFrame(link.Attrs().HardwareAddr, pong)
	f[1], f[4] = 0x77, 0xff // gso_type, gso_size
	bad := dev.metrics.TxBad.Load()
	d.Queue(1).Do(virtiotest.Out(f))
	if dev.metrics.TxBad.Load() != bad+1 {
		t.Error("a mad header was sent")
	}
	send(d)

	// Somebody removes the tap: the cable is out, the machine goes on.
	seen := d.Link.ConfigInterrupts()
	d.Queue(0).Add(virtiotest.In(2000))
	d.Queue(0).Kick()
	check(t, netlink.LinkDel(link))
	d.WaitConfigInterrupt(seen)
	if d.Config(6, 1)[0]&statusLinkUp != 0 {
		t.Error("the link is up without a tap")
	}
	d.Queue(1).Do(virtiotest.Out(f))
	d.Stop()
	d.Resume()
}

// udpFrame is a UDP frame to port 7 with a partial checksum.
func udpFrame(to stdnet.HardwareAddr, payload []byte) []byte {
	be := binary.BigEndian
	f := make([]byte, HeaderLen+etherLen+28, HeaderLen+etherLen+28+len(payload))
	f[0] = 1                                          // NEEDS_CSUM
	binary.LittleEndian.PutUint16(f[6:], etherLen+20) // csum_start
	binary.LittleEndian.PutUint16(f[8:], 6)           // csum_offset
	e := f[HeaderLen:]
	copy(e[0:], to)
	copy(e[6:], testMAC[:])
	be.PutUint16(e[12:], 0x800)
	ip := e[etherLen:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	be.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], guestIP)
	copy(ip[16:], hostIP)
	be.PutUint16(ip[10:], ^sum(0, ip[:20]))
	udp := ip[20:]
	be.PutUint16(udp[0:], 1234)
	be.PutUint16(udp[2:], 7)
	be.PutUint16(udp[4:], uint16(8+len(payload)))
	// The pseudo header's sum; whoever completes the checksum adds the rest.
	be.PutUint16(udp[6:], sum(uint32(unix.IPPROTO_UDP+8+len(payload)), ip[12:20]))
	return append(f, payload...)
}

func sum(s uint32, p []byte) uint16 {
	for i := 0; i+1 < len(p); i += 2 {
		s += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// Queue pairs that the driver does not use get no frames.
func TestTapQueuePairs(t *testing.T) {
	if !inNetns(t) {
		return
	}
	fs, _ := makeTap(t, "tap0", 3)
	d := virtiotest.Start(t, tapDevice(t, fs), virtiotest.Options{})
	burst := func(flows int) {
		t.Helper()
		for i := range flows {
			c, err := stdnet.DialUDP("udp4", &stdnet.UDPAddr{IP: hostIP, Port: 2000 + i}, &stdnet.UDPAddr{IP: guestIP, Port: 9})
			check(t, err)
			_, err = c.Write([]byte("x"))
			check(t, err)
			c.Close()
		}
	}
	got := func() (n [3]int) {
		for i := range n {
			for {
				if _, ok := d.Queue(2 * i).TryWait(); !ok {
					break
				}
				n[i]++
			}
		}
		return n
	}
	for i := range 3 {
		for range 100 {
			d.Queue(2 * i).Add(virtiotest.In(200))
		}
		d.Queue(2 * i).Kick()
	}
	const flows = 40
	all := func(what string) (n [3]int) {
		t.Helper()
		burst(flows)
		d.Eventually(what, func() bool {
			for i, k := range got() {
				n[i] += k
			}
			return n[0]+n[1]+n[2] == flows
		})
		return n
	}
	if n := all("frames with one pair"); n != [3]int{flows, 0, 0} {
		t.Errorf("with one pair: %v", n)
	}
	if ctrl(d, classMQ, cmdMQPairs, 3, 0) != ackOK {
		t.Fatal("refused")
	}
	if n := all("frames with three pairs"); n[0] == flows || n[1]+n[2] == 0 {
		t.Errorf("with three pairs: %v", n)
	}
	if ctrl(d, classMQ, cmdMQPairs, 1, 0) != ackOK {
		t.Fatal("refused")
	}
	if n := all("frames with one pair again"); n != [3]int{flows, 0, 0} {
		t.Errorf("with one pair again: %v", n)
	}
	if d.Config(6, 1)[0]&statusLinkUp == 0 {
		t.Error("taking a pair out of use pulled the cable")
	}
}
