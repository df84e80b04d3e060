package guestproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// MaxMessage is the largest control message in bytes, in both directions. A
// peer that announces a longer one is cut off before any of it is allocated.
const MaxMessage = 1 << 20

// firstRead is how much of a long message is allocated before any of it has
// arrived.
const firstRead = 64 << 10

// Framer cuts a byte stream into control messages: a 32-bit little-endian
// length, then that many bytes of JSON. It has the methods of a jrpc2 channel.
// Send may be called from several goroutines, Recv from one at a time.
type Framer struct {
	rwc io.ReadWriteCloser

	mu  sync.Mutex // held while a frame is written; guards out
	out []byte
}

// NewFramer returns a Framer over rwc, which it owns from then on.
func NewFramer(rwc io.ReadWriteCloser) *Framer { return &Framer{rwc: rwc} }

// Send writes one message. It does not keep msg. A message over MaxMessage is
// refused with ErrTooLarge and nothing is written.
func (f *Framer) Send(msg []byte) error {
	if len(msg) > MaxMessage {
		return fmt.Errorf("%w: %d bytes to send, at most %d are allowed", ErrTooLarge, len(msg), MaxMessage)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// One write, so that a stream transport sends one packet and not two.
	f.out = binary.LittleEndian.AppendUint32(f.out[:0], uint32(len(msg)))
	f.out = append(f.out, msg...)
	_, err := f.rwc.Write(f.out)
	if cap(f.out) > firstRead {
		f.out = nil
	}
	return err
}

// Recv reads one message into a buffer of its own. It returns io.EOF at a
// clean end, io.ErrUnexpectedEOF inside a message, and ErrTooLarge, without
// reading further, when the peer announces more than MaxMessage; the stream is
// then out of step and must be closed.
func (f *Framer) Recv() ([]byte, error) {
	var hdr [4]byte
	if _, err := io.ReadFull(f.rwc, hdr[:]); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(hdr[:]))
	if n > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes announced, at most %d are allowed", ErrTooLarge, n, MaxMessage)
	}
	buf := make([]byte, min(n, firstRead))
	if _, err := io.ReadFull(f.rwc, buf); err != nil {
		return nil, unexpected(err)
	}
	if rest := int(n) - len(buf); rest > 0 {
		buf = append(buf, make([]byte, rest)...)
		if _, err := io.ReadFull(f.rwc, buf[firstRead:]); err != nil {
			return nil, unexpected(err)
		}
	}
	return buf, nil
}

// Close closes the stream; a Recv that waits returns.
func (f *Framer) Close() error { return f.rwc.Close() }

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
