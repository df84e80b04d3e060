package critest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// Client says to containerd what the kubelet says: runtime.v1, which is gRPC, with
// what the standard library has of it, requests of HTTP/2 with a length before each
// message.
type Client struct {
	t *testing.T
	c *http.Client
}

// New is a client of what listens at the socket, which need not yet.
func New(t *testing.T, socket string) *Client {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &Client{t, &http.Client{Transport: tr, Timeout: time.Minute}}
}

// Try calls a method of the RuntimeService.
func (c *Client) Try(method string, request Message) (Reply, error) {
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

// Call is Try that fails the test on an error.
func (c *Client) Call(method string, request Message) Reply {
	c.t.Helper()
	r, err := c.Try(method, request)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}
