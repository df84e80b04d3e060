package guestproto

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// TokenSize is the length of a stream token in bytes.
const TokenSize = 16

// StreamHeaderSize is the length in bytes of the header that opens a stream
// connection.
const StreamHeaderSize = 24

// streamMagic and the version after it open every stream header.
var streamMagic = [5]byte{'H', 'V', 'S', 'T', 1}

// Token names one stream of one process. The host draws it at random, gives it
// to the guest in Run, Exec or Attach, and accepts it once.
type Token [TokenSize]byte

// IsZero reports whether t is the zero token, which means "no such stream".
func (t Token) IsZero() bool { return t == Token{} }

// MarshalText encodes t as hexadecimal; the zero token is empty.
func (t Token) MarshalText() ([]byte, error) {
	if t.IsZero() {
		return nil, nil
	}
	return hex.AppendEncode(nil, t[:]), nil
}

// UnmarshalText is the inverse of MarshalText.
func (t *Token) UnmarshalText(b []byte) error {
	*t = Token{}
	if len(b) == 0 {
		return nil
	}
	if len(b) != 2*TokenSize {
		return invalid("stream token of %d digits, want %d", len(b), 2*TokenSize)
	}
	if _, err := hex.Decode(t[:], b); err != nil {
		return invalid("stream token: %v", err)
	}
	return nil
}

// StreamHeader opens a stream connection:
//
//	0  4  magic "HVST"
//	4  1  version, 1
//	5  1  file descriptor: 0, 1 or 2
//	6  2  zero
//	8 16  token
type StreamHeader struct {
	// FD is the descriptor of the process that the stream stands for. For a
	// process with a terminal it is 0 and the stream goes both ways.
	FD uint8
	// Token is the one the host gave for that descriptor.
	Token Token
}

// Encode returns the header's bytes.
func (h StreamHeader) Encode() [StreamHeaderSize]byte {
	var b [StreamHeaderSize]byte
	copy(b[:], streamMagic[:])
	b[5] = h.FD
	copy(b[8:], h.Token[:])
	return b
}

// ParseStreamHeader decodes a header. It returns an error wrapping ErrInvalid
// for anything but a well-formed header of this version with a token.
func ParseStreamHeader(b [StreamHeaderSize]byte) (StreamHeader, error) {
	switch {
	case !bytes.Equal(b[:5], streamMagic[:]):
		return StreamHeader{}, invalid("stream header begins %x, want %x", b[:5], streamMagic)
	case b[5] > 2:
		return StreamHeader{}, invalid("stream descriptor %d, want 0, 1 or 2", b[5])
	case b[6] != 0 || b[7] != 0:
		return StreamHeader{}, invalid("stream header has reserved bytes set")
	}
	h := StreamHeader{FD: b[5], Token: Token(b[8:])}
	if h.Token.IsZero() {
		return StreamHeader{}, invalid("stream token is zero")
	}
	return h, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
