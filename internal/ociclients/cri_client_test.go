package ociclients

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// cri speaks the Kubernetes container runtime interface (runtime.v1), which is
// gRPC, with what the standard library has: requests of HTTP/2 with a length
// before each message. It is what the kubelet says to containerd.
type cri struct {
	t *testing.T
	c *http.Client
}

func newCRI(t *testing.T, socket string) *cri {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &cri{t, &http.Client{Transport: tr, Timeout: time.Minute}}
}

// try calls a method of the RuntimeService.
func (c *cri) try(method string, request message) (reply, error) {
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))), request...)
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, "http://cri/runtime.v1.RuntimeService/"+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("TE", "trailers")
	resp, err := c.c.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	for _, h := range []http.Header{resp.Trailer, resp.Header} {
		if s := h.Get("Grpc-Status"); s != "" && s != "0" {
			return nil, fmt.Errorf("%s: %s", method, h.Get("Grpc-Message"))
		}
	}
	if len(b) < 5 || b[0] != 0 || int(binary.BigEndian.Uint32(b[1:])) != len(b)-5 {
		return nil, fmt.Errorf("%s: %d bytes are no message", method, len(b))
	}
	return decode(b[5:])
}

// call is try that fails the test on an error.
func (c *cri) call(method string, request message) reply {
	c.t.Helper()
	r, err := c.try(method, request)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// message is a Protocol Buffers message that is being written.
type message []byte

func (m message) num(field int, v uint64) message {
	return binary.AppendUvarint(binary.AppendUvarint(m, uint64(field)<<3), v)
}

func (m message) str(field int, s ...string) message {
	for _, s := range s {
		m = append(binary.AppendUvarint(binary.AppendUvarint(m, uint64(field)<<3|2), uint64(len(s))), s...)
	}
	return m
}

func (m message) msg(field int, sub message) message { return m.str(field, string(sub)) }

// reply is a message that has been read: its last value of each field.
type reply map[int]value

type value struct {
	num  uint64
	data []byte
}

var errProto = errors.New("not a message")

func decode(b []byte) (reply, error) {
	r := reply{}
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

func (r reply) str(field int) string { return string(r[field].data) }

// sub is a message inside; one that is not there is empty.
func (r reply) sub(field int) reply {
	s, err := decode(r[field].data)
	if err != nil {
		return reply{}
	}
	return s
}
