package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Type is the type of a frame.
type Type uint16

// The types (docs/migration-protocol.md, section 2).
const (
	Hello    Type = 1
	Welcome  Type = 2
	Refuse   Type = 3
	Offer    Type = 4
	Prepared Type = 5
	Pages    Type = 6
	Round    Type = 7
	Applied  Type = 8
	State    Type = 9
	Final    Type = 10
	Ready    Type = 11
	Go       Type = 12
	Running  Type = 13
	Revoked  Type = 14
	Abort    Type = 15
	Query    Type = 16
	Ask      Type = 17
	Facts    Type = 18
	Packed   Type = 19 // version 2
	Missing  Type = 20 // post-copy, with those that follow (section 11)
	Listen   Type = 21
	Fetch    Type = 22
	Drained  Type = 23
	Pull     Type = 24 // package rendezvous (section 12)
	Image    Type = 25 // an image that is carried along (section 9)
	Blob     Type = 26
	Stored   Type = 27
	Ping     Type = Optional | 1
	Done     Type = Optional | 2 // the source is satisfied (section 13)

	// Optional is the bit of types that a receiver may skip.
	Optional Type = 1 << 15
)

var typeNames = map[Type]string{
	Hello: "HELLO", Welcome: "WELCOME", Refuse: "REFUSE", Offer: "OFFER", Prepared: "PREPARED", Pages: "PAGES", Round: "ROUND",
	Applied: "APPLIED", State: "STATE", Final: "FINAL", Ready: "READY", Go: "GO", Running: "RUNNING", Revoked: "REVOKED",
	Abort: "ABORT", Query: "QUERY", Ask: "ASK", Facts: "FACTS", Packed: "PACKED", Ping: "PING",
	Missing: "MISSING", Listen: "LISTEN", Fetch: "FETCH", Drained: "DRAINED", Pull: "PULL",
	Image: "IMAGE", Blob: "BLOB", Stored: "STORED", Done: "DONE",
}

// String returns the name in the specification.
func (t Type) String() string {
	if n, ok := typeNames[t]; ok {
		return n
	}
	return fmt.Sprintf("type %#x", uint16(t))
}

const (
	// HeaderSize is the length of a frame's header, in bytes.
	HeaderSize = 32
	// MaxPayload bounds a frame's payload, in bytes.
	MaxPayload = 2 << 20

	magic = 0x314d5648 // "HVM1"
)

// header is the first 32 bytes of a frame.
type header struct {
	typ     Type
	channel uint16
	epoch   uint32
	length  uint32
	seq     uint64
	crc     uint32 // of the payload
}

func (h header) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	le.PutUint16(b[4:], uint16(h.typ))
	le.PutUint16(b[6:], h.channel)
	le.PutUint32(b[8:], h.epoch)
	le.PutUint32(b[12:], h.length)
	le.PutUint64(b[16:], h.seq)
	le.PutUint32(b[24:], h.crc)
	le.PutUint32(b[28:], CRC(0, b[:28]))
}

func parseHeader(b []byte) (h header, err error) {
	le := binary.LittleEndian
	if m := le.Uint32(b); m != magic {
		return h, fmt.Errorf("%w: a frame begins with %#08x, want %#08x", ErrCorrupt, m, magic)
	}
	if got, want := CRC(0, b[:28]), le.Uint32(b[28:]); got != want {
		return h, fmt.Errorf("%w: a frame's header has the checksum %#08x, want %#08x", ErrCorrupt, got, want)
	}
	h = header{
		typ: Type(le.Uint16(b[4:])), channel: le.Uint16(b[6:]), epoch: le.Uint32(b[8:]),
		length: le.Uint32(b[12:]), seq: le.Uint64(b[16:]), crc: le.Uint32(b[24:]),
	}
	if h.length > MaxPayload {
		return h, fmt.Errorf("%w: a frame of %d bytes, at most %d are allowed", ErrCorrupt, h.length, MaxPayload)
	}
	return h, nil
}

// Conn sends and receives the frames of one channel over one connection. Send
// may be called by several goroutines, Recv by one.
type Conn struct {
	net.Conn
	channel uint16
	epoch   uint32
	learn   bool // channel and epoch are those of the first frame that comes
	stall   time.Duration
	stopped atomic.Bool

	mu      sync.Mutex // guards what follows, and the order of frames
	sendSeq uint64

	recvSeq uint64
	head    [HeaderSize]byte
	buf     []byte // grown to the largest payload so far, kept for the next
}

// NewConn begins a connection's source side. stall is how long one frame may
// take to be sent.
func NewConn(c net.Conn, channel uint16, epoch uint32, stall time.Duration) *Conn {
	return &Conn{Conn: c, channel: channel, epoch: epoch, stall: stall}
}

// Accept begins a connection's destination side: channel and epoch are those
// of the first frame received.
func Accept(c net.Conn, stall time.Duration) *Conn {
	return &Conn{Conn: c, learn: true, stall: stall}
}

// Channel returns the channel, and Epoch the epoch of the connection.
func (c *Conn) Channel() uint16 { return c.channel }

// Epoch returns the epoch of the connection's frames.
func (c *Conn) Epoch() uint32 { return c.epoch }

// Send sends a frame. It copies nothing that is kept.
func (c *Conn) Send(t Type, payload []byte) error {
	buf := make([]byte, HeaderSize+len(payload))
	copy(buf[HeaderSize:], payload)
	return c.SendInPlace(t, buf)
}

// SendInPlace sends the frame whose payload is buf[HeaderSize:]; the header is
// written into the bytes before.
func (c *Conn) SendInPlace(t Type, buf []byte) error {
	payload := buf[HeaderSize:]
	if len(payload) > MaxPayload {
		return fmt.Errorf("%v frame of %d bytes, at most %d fit", t, len(payload), MaxPayload)
	}
	h := header{typ: t, channel: c.channel, epoch: c.epoch, length: uint32(len(payload)), crc: CRC(0, payload)}
	c.mu.Lock()
	defer c.mu.Unlock()
	h.seq = c.sendSeq
	c.sendSeq++
	h.put(buf)
	if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return err
	}
	if c.stopped.Load() {
		return fmt.Errorf("send %v: %w", t, os.ErrDeadlineExceeded)
	}
	if _, err := c.Write(buf); err != nil {
		return fmt.Errorf("send %v: %w", t, err)
	}
	return nil
}

// Interrupt makes Send fail, now and from now on. Receiving goes on.
func (c *Conn) Interrupt() {
	c.stopped.Store(true)
	_ = c.SetWriteDeadline(time.Unix(1, 0))
}

// Recv returns the next frame; PING and unknown optional frames are skipped.
// The payload is valid until the next call. wait, when not 0, is how long
// every single frame may take to come. Errors wrap ErrCorrupt, or are the
// connection's; io.EOF only when the peer closed it between two frames.
func (c *Conn) Recv(wait time.Duration) (t Type, payload []byte, err error) {
	for {
		if t, payload, err = c.recv(wait); err != nil {
			return 0, nil, err
		}
		if t&Optional != 0 && t != Done {
			continue
		}
		return t, payload, nil
	}
}

func (c *Conn) recv(wait time.Duration) (Type, []byte, error) {
	var deadline time.Time
	if wait > 0 {
		deadline = time.Now().Add(wait)
	}
	if err := c.SetReadDeadline(deadline); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(c.Conn, c.head[:]); err != nil {
		return 0, nil, err
	}
	h, err := parseHeader(c.head[:])
	if err != nil {
		return 0, nil, err
	}
	if c.learn {
		c.channel, c.epoch, c.learn = h.channel, h.epoch, false
	}
	switch {
	case h.channel != c.channel || h.epoch != c.epoch:
		return 0, nil, fmt.Errorf("%w: a frame of channel %d epoch %d, want channel %d epoch %d", ErrCorrupt, h.channel, h.epoch, c.channel, c.epoch)
	case h.seq != c.recvSeq:
		return 0, nil, fmt.Errorf("%w: frame %d came, want %d: lost, repeated or out of order", ErrCorrupt, h.seq, c.recvSeq)
	}
	c.recvSeq++
	if int(h.length) > cap(c.buf) {
		c.buf = make([]byte, h.length)
	}
	payload := c.buf[:h.length]
	if _, err := io.ReadFull(c.Conn, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, fmt.Errorf("receive %v: %w", h.typ, err)
	}
	if got := CRC(0, payload); got != h.crc {
		return 0, nil, fmt.Errorf("%w: %v has the checksum %#08x, want %#08x", ErrCorrupt, h.typ, got, h.crc)
	}
	return h.typ, payload, nil
}
