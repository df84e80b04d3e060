package usernet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/hvctl/hvctl/internal/hostnet"
)

// frame is one of the guest's, with a body.
func frame(kind uint16, body ...byte) []byte {
	f := make([]byte, headerLen, headerLen+etherLen+len(body))
	f = append(f, gatewayMAC...)
	f = append(f, guestMAC...)
	return append(binary.BigEndian.AppendUint16(f, kind), body...)
}

func datagram(proto byte, from, to string, data ...byte) []byte {
	p := make([]byte, ipv4Len)
	p[0], p[8], p[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(ipv4Len+len(data)))
	a, b := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	copy(p[12:], a[:])
	copy(p[16:], b[:])
	return append(p, data...)
}

func arpFrame(op byte, sender, target string) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, op}
	p = append(p, guestMAC...)
	a, b := netip.MustParseAddr(sender).As4(), netip.MustParseAddr(target).As4()
	p = append(p, a[:]...)
	p = append(p, 0, 0, 0, 0, 0, 0)
	return frame(typeARP, append(p, b[:]...)...)
}

func with(f []byte, at int, v byte) []byte {
	f[at] = v
	return f
}

func TestFilter(t *testing.T) {
	good := func() []byte { return frame(typeIPv4, datagram(protoUDP, "10.0.2.15", "9.9.9.9", 1, 2)...) }
	for _, tc := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"a datagram", good(), true},
		{"TCP", frame(typeIPv4, datagram(protoTCP, "10.0.2.15", "10.0.2.2")...), true},
		{"a ping of the gateway", frame(typeIPv4, datagram(protoICMP, "10.0.2.15", "10.0.2.2")...), true},
		{"ARP for the gateway", arpFrame(1, "10.0.2.15", "10.0.2.2"), true},
		{"ARP for a name server", arpFrame(1, "10.0.2.15", "10.0.2.5"), true},

		{"nothing", nil, false},
		{"half a header", make([]byte, 5), false},
		{"another's Ethernet address", with(good(), headerLen+6, 4), false},
		{"another's IP address", frame(typeIPv4, datagram(protoUDP, "10.0.2.16", "9.9.9.9")...), false},
		{"the gateway's IP address", frame(typeIPv4, datagram(protoUDP, "10.0.2.2", "10.0.2.2")...), false},
		{"segments", with(good(), gsoType, 1), false},
		{"IPv6", frame(0x86dd, make([]byte, 60)...), false},
		{"VLAN", frame(0x8100, make([]byte, 60)...), false},
		{"version 6 in an IPv4 frame", with(good(), headerLen+etherLen, 0x65), false},
		{"a header of 60 bytes in a datagram of 22", with(good(), headerLen+etherLen, 0x4f), false},
		{"a header of 16 bytes", with(good(), headerLen+etherLen, 0x44), false},
		{"longer than the frame", with(good(), headerLen+etherLen+2, 9), false},
		{"a ping of somebody else", frame(typeIPv4, datagram(protoICMP, "10.0.2.15", "9.9.9.9")...), false},
		{"SCTP", frame(typeIPv4, datagram(132, "10.0.2.15", "9.9.9.9")...), false},
		{"ARP for itself", arpFrame(1, "10.0.2.15", "10.0.2.15"), false},
		{"ARP for a neighbour", arpFrame(1, "10.0.2.15", "10.0.2.77"), false},
		{"an ARP answer in the gateway's name", arpFrame(2, "10.0.2.2", "10.0.2.15"), false},
		{"too long", append(good(), make([]byte, maxFrame)...), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := filter{mac: guestMAC, ip: hostnet.UserIP, own: ownAddress}
			if got := f.pass(tc.frame); got != tc.want {
				t.Errorf("passed: %v", got)
			}
			if f.dropped.Load() == 1 == tc.want {
				t.Errorf("counted %d dropped", f.dropped.Load())
			}
		})
	}
}

// FuzzFrame gives a stack any frame, and more that the filter lets through. No
// socket is opened: everything is refused behind the stack.
func FuzzFrame(f *testing.F) {
	f.Add(frame(typeIPv4, datagram(protoUDP, "10.0.2.15", "10.0.2.3", 1, 2, 3, 4, 0, 8, 0, 0)...))
	f.Add(frame(typeIPv4, datagram(protoTCP, "10.0.2.15", "10.0.2.2", 1, 2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0)...))
	f.Add(frame(typeIPv4, datagram(protoICMP, "10.0.2.15", "10.0.2.2", 8, 0, 0, 0, 0, 1, 0, 1)...))
	f.Add(arpFrame(1, "10.0.2.15", "10.0.2.2"))
	n, err := newStack(config(), policy{servers: func() []netip.Addr { return nil }, beyond: func(netip.Addr) bool { return false }}, quiet)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(n.Close)
	f.Fuzz(func(t *testing.T, b []byte) {
		n.Input(b)
		if len(b) >= headerLen+etherLen+ipv4Len { // as the guest it claims not to be
			b = append([]byte(nil), b...)
			b[gsoType] = 0
			copy(b[headerLen+6:], guestMAC)
			binary.BigEndian.PutUint16(b[headerLen+12:], typeIPv4)
			ip := hostnet.UserIP.As4()
			copy(b[headerLen+etherLen+12:], ip[:])
			n.Input(b)
		}
		n.link.Drain()
	})
}
