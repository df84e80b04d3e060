package probe

import "net/netip"

// NetKey is the word of the kernel's command line that makes the network the
// device under test.
const NetKey = "hvprobe_net"

// Where the guest and the host are, and the port of both protocols.
var (
	NetHost  = netip.AddrFrom4([4]byte{198, 18, 0, 1})
	NetGuest = netip.AddrFrom4([4]byte{198, 18, 0, 2})
)

const (
	NetBits = 30
	NetPort = 7
)

// The first byte of a connection or a datagram says what the host is to do.
const (
	NetEcho  = 'e' // send back what comes
	NetTake  = 't' // a byte back for each NetBatch of bytes, a datagram for each NetBurst
	NetGive  = 'g' // the other way round
	NetHello = 'h' // datagrams: forget the guest before
)

const (
	NetBatch = 1 << 20  // bytes of one operation of a stream
	NetChunk = 64 << 10 // bytes of one call
	NetBurst = 64       // datagrams of one operation
)

// NetTest is one way of using the network. An operation of a stream is NetBatch
// bytes, of others one exchange.
type NetTest struct {
	Name  string
	Verb  byte
	UDP   bool
	Each  bool // a new connection for each operation
	Bytes int  // that pass in one operation
	Ops   int
}

// String is the test's name.
func (t NetTest) String() string { return t.Name }

// NetTests are what the probe does, in this order. They follow netperf's
// TCP_STREAM, TCP_MAERTS, TCP_RR and TCP_CRR; a burst of datagrams, of the
// smallest Ethernet frames, is answered by one, so that none is lost.
var NetTests = []NetTest{
	{Name: "tcp-send", Verb: NetTake, Bytes: NetBatch, Ops: 128},
	{Name: "tcp-receive", Verb: NetGive, Bytes: NetBatch, Ops: 128},
	{Name: "tcp-rr", Verb: NetEcho, Bytes: 1, Ops: 2000},
	{Name: "tcp-crr", Verb: NetEcho, Each: true, Bytes: 1, Ops: 300},
	{Name: "udp-send-burst", Verb: NetTake, UDP: true, Bytes: NetBurst * NetFrame, Ops: 300},
	{Name: "udp-receive-burst", Verb: NetGive, UDP: true, Bytes: NetBurst * NetFrame, Ops: 300},
}

// NetFrame is what a datagram of NetPayload bytes is on the wire, without the
// checksum at the end.
const (
	NetFrame   = 60
	NetPayload = 18
)
