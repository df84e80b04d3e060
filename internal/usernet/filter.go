package usernet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/hostnet"
)

const (
	// headerLen is the size of struct virtio_net_hdr with num_buffers (VIRTIO
	// 1.2, 5.1.6); of it only gso_type is looked at.
	headerLen = 12
	gsoType   = 1

	etherLen  = 14
	arpLen    = 28 // RFC 826, for Ethernet and IPv4
	ipv4Len   = 20 // RFC 791, without options
	maxFrame  = headerLen + etherLen + 65535
	typeIPv4  = 0x0800
	typeARP   = 0x0806
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
)

// filter judges the frames of the instance before the stack sees them.
type filter struct {
	mac []byte
	ip  netip.Addr
	own func(netip.Addr) bool // the stack's own addresses

	dropped atomic.Uint64
}

// pass says whether the stack is to see a frame, header included: IPv4 from the
// instance's own addresses, of protocols that are carried on, and ARP that asks
// for one of the stack's addresses. Whatever else the instance sends, it talks
// to nobody.
func (f *filter) pass(frame []byte) bool {
	ok := f.judge(frame)
	if !ok {
		f.dropped.Add(1)
	}
	return ok
}

func (f *filter) judge(frame []byte) bool {
	if len(frame) < headerLen+etherLen || len(frame) > maxFrame || frame[gsoType] != 0 {
		return false
	}
	ether := frame[headerLen:]
	if !bytes.Equal(ether[6:12], f.mac) {
		return false
	}
	body := ether[etherLen:]
	switch binary.BigEndian.Uint16(ether[12:]) {
	case typeARP:
		return len(body) >= arpLen && f.arp(body)
	case typeIPv4:
		return len(body) >= ipv4Len && f.ipv4(body)
	}
	return false
}

// arp passes requests for addresses of ours by the instance for itself.
func (f *filter) arp(p []byte) bool {
	ethernetIPv4Request := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	return bytes.HasPrefix(p, ethernetIPv4Request) && bytes.Equal(p[8:14], f.mac) &&
		addr4(p[14:]) == f.ip && f.own(addr4(p[24:]))
}

func (f *filter) ipv4(p []byte) bool {
	header := int(p[0]&15) * 4
	if p[0]>>4 != 4 || header < ipv4Len || header > len(p) || int(binary.BigEndian.Uint16(p[2:])) > len(p) {
		return false
	}
	if addr4(p[12:]) != f.ip {
		return false
	}
	switch p[9] {
	case protoTCP, protoUDP:
		return true
	case protoICMP:
		// The stack would answer in the name of whoever is asked.
		return f.own(addr4(p[16:]))
	}
	return false
}

func addr4(p []byte) netip.Addr { return netip.AddrFrom4([4]byte(p[:4])) }

// ownAddress says whether a is one that the stack has itself: the gateway's, or
// one of those that lead to name servers.
func ownAddress(a netip.Addr) bool {
	if a == hostnet.UserGateway {
		return true
	}
	_, ok := nameServer(a)
	return ok
}

// nameServer says as which of the host's name servers the instance knows a.
func nameServer(a netip.Addr) (index int, ok bool) {
	at := hostnet.UserDNS
	for i := range hostnet.MaxUserDNS {
		if a == at {
			return i, true
		}
		at = at.Next()
	}
	return 0, false
}
