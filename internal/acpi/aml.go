package acpi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrPlatform is wrapped when a Platform cannot be described in ACPI tables.
var ErrPlatform = errors.New("bad ACPI platform")

// amlWriter collects AML (ACPI 6.5, chapter 20). The first error sticks.
type amlWriter struct {
	b   []byte
	err error
}

// node is one AML term: it writes itself.
type node func(*amlWriter)

func encode(nodes ...node) ([]byte, error) {
	w := &amlWriter{}
	for _, n := range nodes {
		n(w)
	}
	return w.b, w.err
}

func (w *amlWriter) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: "+format, append([]any{ErrPlatform}, args...)...)
	}
}

// Opcodes (20.3). Two-byte ones start with extPrefix.
const (
	opZero, opOne              = 0x00, 0x01
	opName                     = 0x08
	opByte, opWord, opDWord    = 0x0a, 0x0b, 0x0c
	opString, opQWord          = 0x0d, 0x0e
	opScope, opBuffer, opPkg   = 0x10, 0x11, 0x12
	opMethod                   = 0x14
	dualPrefix, multiPrefix    = 0x2e, 0x2f
	extPrefix                  = 0x5b
	opLocal0, opArg0           = 0x60, 0x68
	opStore, opAnd, opOr       = 0x70, 0x7b, 0x7d
	opNotify, opCreateDWord    = 0x86, 0x8a
	opLNot, opLEqual           = 0x92, 0x93
	opIf, opElse, opReturn     = 0xa0, 0xa1, 0xa4
	extOpRegion, extField      = 0x80, 0x81
	extDevice                  = 0x82
	regionMemory, regionIO     = 0, 1
	fieldDWordAcc, fieldZeroes = 3, 2 << 5
)

// pkgLength frames body as PkgLength, body (20.2.4): the length counts its own
// bytes; one byte holds 6 bits of it, more hold 4, 12, 20 or 28.
func (w *amlWriter) pkgLength(body []byte) {
	switch n := len(body); {
	case n+1 < 1<<6:
		w.b = append(w.b, byte(n+1))
	case n+2 < 1<<12:
		n += 2
		w.b = append(w.b, 1<<6|byte(n&0xf), byte(n>>4))
	case n+3 < 1<<20:
		n += 3
		w.b = append(w.b, 2<<6|byte(n&0xf), byte(n>>4), byte(n>>12))
	case n+4 < 1<<28:
		n += 4
		w.b = append(w.b, 3<<6|byte(n&0xf), byte(n>>4), byte(n>>12), byte(n>>20))
	default:
		w.fail("AML object of %d bytes", n)
		return
	}
	w.b = append(w.b, body...)
}

// framed writes the opcode, then the encoded length of head and body together.
func framed(op []byte, nodes ...node) node {
	return func(w *amlWriter) {
		body, err := encode(nodes...)
		if err != nil && w.err == nil {
			w.err = err
		}
		w.b = append(w.b, op...)
		w.pkgLength(body)
	}
}

func raw(b ...byte) node { return func(w *amlWriter) { w.b = append(w.b, b...) } }

func group(nodes ...node) node {
	return func(w *amlWriter) {
		for _, n := range nodes {
			n(w)
		}
	}
}

// name writes a NameString (20.2.2): `\`, `^` and segments parted by dots.
func name(path string) node {
	return func(w *amlWriter) {
		rest := strings.TrimLeft(path, `\^`)
		w.b = append(w.b, path[:len(path)-len(rest)]...)
		if rest == "" {
			w.b = append(w.b, 0)
			return
		}
		segs := strings.Split(rest, ".")
		switch {
		case len(segs) == 2:
			w.b = append(w.b, dualPrefix)
		case len(segs) > 255:
			w.fail("AML name %q is too long", path)
			return
		case len(segs) > 2:
			w.b = append(w.b, multiPrefix, byte(len(segs)))
		}
		for _, s := range segs {
			if !validSeg(s) {
				w.fail("AML name %q is malformed", path)
				return
			}
			w.b = append(w.b, (s + "____")[:4]...)
		}
	}
}

func validSeg(s string) bool {
	if s == "" || len(s) > 4 {
		return false
	}
	for i, c := range []byte(s) {
		if c != '_' && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// integer writes v in its shortest form.
func integer(v uint64) node {
	return func(w *amlWriter) {
		le := binary.LittleEndian
		switch {
		case v == 0:
			w.b = append(w.b, opZero)
		case v == 1:
			w.b = append(w.b, opOne)
		case v < 1<<8:
			w.b = append(w.b, opByte, byte(v))
		case v < 1<<16:
			w.b = le.AppendUint16(append(w.b, opWord), uint16(v))
		case v < 1<<32:
			w.b = le.AppendUint32(append(w.b, opDWord), uint32(v))
		default:
			w.b = le.AppendUint64(append(w.b, opQWord), v)
		}
	}
}

// text writes a string of ASCII.
func text(s string) node {
	return func(w *amlWriter) {
		for _, c := range []byte(s) {
			if c < 1 || c > 0x7f {
				w.fail("AML string %q is not ASCII", s)
				return
			}
		}
		w.b = append(append(append(w.b, opString), s...), 0)
	}
}

// eisaID packs a plug-and-play id such as PNP0A08 (19.6.37): three letters of
// 5 bits and four hexadecimal digits, most significant byte first.
func eisaID(id string) node {
	return func(w *amlWriter) {
		var v uint32
		ok := len(id) == 7
		for i := 0; ok && i < 7; i++ {
			c := id[i]
			switch {
			case i < 3 && c >= 'A' && c <= 'Z':
				v = v<<5 | uint32(c-'A'+1)
			case i >= 3 && c >= '0' && c <= '9':
				v = v<<4 | uint32(c-'0')
			case i >= 3 && c >= 'A' && c <= 'F':
				v = v<<4 | uint32(c-'A'+10)
			default:
				ok = false
			}
		}
		if !ok {
			w.fail("EISA id %q is malformed", id)
			return
		}
		w.b = binary.BigEndian.AppendUint32(append(w.b, opDWord), v)
	}
}

// buffer is a Buffer with the given contents.
func buffer(b []byte) node { return framed([]byte{opBuffer}, integer(uint64(len(b))), raw(b...)) }

// pkg is a Package.
func pkg(elems ...node) node {
	if len(elems) > 255 {
		return func(w *amlWriter) { w.fail("AML package of %d elements", len(elems)) }
	}
	return framed([]byte{opPkg}, raw(byte(len(elems))), group(elems...))
}

// uuid is ToUUID (19.6.142): the first three fields are little-endian.
func uuid(s string) node {
	return func(w *amlWriter) {
		order := []int{6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34} // of the digit pairs
		var b [16]byte
		if len(s) != 36 {
			w.fail("UUID %q is malformed", s)
			return
		}
		for i, at := range order {
			if _, err := fmt.Sscanf(s[at:at+2], "%02x", &b[i]); err != nil {
				w.fail("UUID %q is malformed", s)
				return
			}
		}
		buffer(b[:])(w)
	}
}
