package critest

import (
	"encoding/binary"
	"errors"
)

// Message is a Protocol Buffers message that is being written; the fields' numbers
// are those of k8s.io/cri-api, runtime/v1.
type Message []byte

// Num adds a number.
func (m Message) Num(field int, v uint64) Message {
	return binary.AppendUvarint(binary.AppendUvarint(m, uint64(field)<<3), v)
}

// Str adds strings of a repeated field, or one.
func (m Message) Str(field int, s ...string) Message {
	for _, s := range s {
		m = append(binary.AppendUvarint(binary.AppendUvarint(m, uint64(field)<<3|2), uint64(len(s))), s...)
	}
	return m
}

// Msg adds a message in this one.
func (m Message) Msg(field int, sub Message) Message { return m.Str(field, string(sub)) }

// Reply is a message that has been read: its last value of each field.
type Reply map[int]value

type value struct {
	num  uint64
	data []byte
}

var errProto = errors.New("not a message")

func decode(b []byte) (Reply, error) {
	r := Reply{}
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errProto
		}
		b = b[n:]
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errProto
		}
		b = b[n:]
		switch key & 7 {
		case 0:
			r[int(key>>3)] = value{num: v}
		case 2:
			if v > uint64(len(b)) {
				return nil, errProto
			}
			r[int(key>>3)] = value{data: b[:v]}
			b = b[v:]
		default:
			return nil, errProto
		}
	}
	return r, nil
}

// Num is a number; 0: it is not there.
func (r Reply) Num(field int) uint64 { return r[field].num }

// Str is a string; empty: it is not there.
func (r Reply) Str(field int) string { return string(r[field].data) }

// Sub is a message inside; one that is not there is empty.
func (r Reply) Sub(field int) Reply {
	s, err := decode(r[field].data)
	if err != nil {
		return Reply{}
	}
	return s
}
