package gdbstub

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxPacket bounds a packet's data in both directions, in bytes. It is told to
// the client, and holds a g packet and memory in pieces of 8 KiB.
const maxPacket = 16 << 10

// errProtocol is wrapped when a client does not speak the protocol; the
// connection is closed then.
var errProtocol = errors.New("not gdb's remote protocol")

// packet is what the client says: data, or that the guest should stop.
type packet struct {
	data      string
	interrupt bool
	bad       bool // the checksum is wrong: to be sent again
}

const interruptByte = 0x03

// readPacket reads the next packet. Acknowledgements are skipped. Errors are
// the connection's or wrap errProtocol.
func readPacket(r *bufio.Reader) (packet, error) {
	for {
		c, err := r.ReadByte()
		switch {
		case err != nil:
			return packet{}, err
		case c == '+' || c == '-': // over a stream nothing is lost, so nothing is repeated
			continue
		case c == interruptByte:
			return packet{interrupt: true}, nil
		case c == '$':
			return readData(r)
		}
		// An HTTP request that a web page makes to a local port ends here, before
		// anything in its body is looked at.
		return packet{}, fmt.Errorf("%w: byte %#x between packets", errProtocol, c)
	}
}

// readData reads a packet's data and checksum.
func readData(r *bufio.Reader) (packet, error) {
	var data []byte
	var sum byte
	for {
		c, err := r.ReadByte()
		if err != nil {
			return packet{}, err
		}
		if c == '#' {
			break
		}
		sum += c
		if c == '}' {
			if c, err = r.ReadByte(); err != nil {
				return packet{}, err
			}
			sum += c
			c ^= 0x20
		}
		if len(data) == maxPacket {
			return packet{}, fmt.Errorf("%w: a packet of more than %d bytes", errProtocol, maxPacket)
		}
		data = append(data, c)
	}
	var digits [2]byte
	if _, err := io.ReadFull(r, digits[:]); err != nil {
		return packet{}, err
	}
	want, ok := hexByte(digits[0], digits[1])
	return packet{data: string(data), bad: !ok || want != sum}, nil
}

// writePacket frames data.
func writePacket(w *bufio.Writer, data string) error {
	var sum byte
	var b strings.Builder
	for i := range len(data) {
		c := data[i]
		if c == '#' || c == '$' || c == '}' || c == '*' {
			b.WriteByte('}')
			sum += '}'
			c ^= 0x20
		}
		b.WriteByte(c)
		sum += c
	}
	fmt.Fprintf(w, "$%s#%02x", b.String(), sum)
	return w.Flush()
}

// hexByte is the byte that two hexadecimal digits stand for.
func hexByte(a, b byte) (byte, bool) {
	h, ok1 := hexDigit(a)
	l, ok2 := hexDigit(b)
	return h<<4 | l, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
