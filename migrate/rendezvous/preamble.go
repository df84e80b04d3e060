package rendezvous

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// ErrProtocol is wrapped when the other side says what the protocol does not allow.
var ErrProtocol = errors.New("protocol violation")

// Every connection that the destination makes begins with the magic and a kind.
const (
	magic    = "HVR1"
	kindAsk  = 'A' // TLS follows, and in it PULL
	kindPark = 'C' // a number and its proof follow
)

// What the source says on a parked connection, a byte each.
const (
	sayParked = 'P'
	sayTaken  = 'T' // the source's TLS follows
	sayEnd    = 'E' // no connection is needed any more
)

// greeting is how long a connection's first words may take.
const greeting = 10 * time.Second

// Key proves that a connection comes from whoever was let in. It keeps strangers
// from being taken for the destination; what the peer is, TLS proves.
type Key [16]byte

// NewKey returns a random one.
func NewKey() (k Key) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}

// String returns it for ParseKey. It is a secret.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// ParseKey reads what String wrote.
func ParseKey(s string) (k Key, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("%w: a key has %d hexadecimal digits", ErrProtocol, 2*len(k))
	}
	return Key(b), nil
}

// ticket is the number of a parked connection, which grows, and its proof: it is good
// once, also for who has read it on the way.
type ticket [8 + sha256.Size]byte

func (k Key) ticket(n uint64) (t ticket) {
	binary.LittleEndian.PutUint64(t[:8], n)
	m := hmac.New(sha256.New, k[:])
	_, _ = m.Write(t[:8]) // never fails
	m.Sum(t[:8])
	return t
}

// check returns the number of a ticket that was made with k.
func (k Key) check(t ticket) (n uint64, ok bool) {
	n = binary.LittleEndian.Uint64(t[:8])
	want := k.ticket(n)
	return n, hmac.Equal(t[:], want[:])
}

// readKind receives a connection's first words.
func readKind(c net.Conn) (kind byte, err error) {
	var b [len(magic) + 1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, err
	}
	if string(b[:len(magic)]) != magic {
		return 0, fmt.Errorf("%w: it does not begin with %s", ErrProtocol, magic)
	}
	return b[len(magic)], nil
}

func readByte(c net.Conn) (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(c, b[:])
	return b[0], err
}
