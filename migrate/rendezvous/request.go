package rendezvous

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"unicode"

	"github.com/hvctl/hvctl/migrate/transport"
	"github.com/hvctl/hvctl/migrate/wire"
)

// ErrRefused is wrapped when the source said no, with its reason.
var ErrRefused = errors.New("refused by the source")

// requestVersion is the version of this package's protocol.
const requestVersion = 1

// Request is what a destination asks for.
type Request struct {
	VM    string
	Token string
	Key   Key // under which its connections will come
}

// pull is the payload of PULL, and granted that of the WELCOME that answers it.
type pull struct {
	Version int    `json:"version"`
	VM      string `json:"vm"`
	Token   string `json:"token"`
	Key     string `json:"key"`
}

type granted struct {
	Version int `json:"version"`
}

type refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func decodePull(b []byte) (r Request, err error) {
	var p pull
	if err := strict(b, &p); err != nil {
		return r, err
	}
	switch {
	case p.Version != requestVersion:
		return r, fmt.Errorf("%w: version %d, this build speaks %d", ErrProtocol, p.Version, requestVersion)
	case len(p.VM) == 0 || len(p.VM) > 255 || len(p.Token) > 255:
		return r, fmt.Errorf("%w: a name or token of 0 or more than 255 bytes", ErrProtocol)
	}
	r = Request{VM: p.VM, Token: p.Token}
	r.Key, err = ParseKey(p.Key)
	return r, err
}

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: bytes after the value", ErrProtocol)
	}
	return nil
}

// Ask asks the source at the other end of c, which it closes. An error wraps
// ErrRefused when that says no; nil means that it waits for connections from now on.
func Ask(ctx context.Context, c net.Conn, r Request, o transport.Options) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if _, err := c.Write(append([]byte(magic), kindAsk)); err != nil {
		return err
	}
	t, err := transport.Client(ctx, c, o)
	if err != nil {
		return err
	}
	w := wire.NewConn(t, 0, 0, greeting)
	if err := sendJSON(w, wire.Pull, pull{requestVersion, r.VM, r.Token, r.Key.String()}); err != nil {
		return err
	}
	typ, p, err := w.Recv(greeting)
	switch {
	case err != nil:
		return fmt.Errorf("wait for the source's answer: %w", err)
	case typ == wire.Refuse:
		var no refusal
		if err := strict(p, &no); err != nil {
			return err
		}
		return fmt.Errorf("%w (%s): %s", ErrRefused, printable(no.Code), printable(no.Message))
	case typ != wire.Welcome:
		return fmt.Errorf("%w: %v instead of WELCOME", ErrProtocol, typ)
	}
	var g granted
	if err := strict(p, &g); err != nil {
		return err
	}
	if g.Version != requestVersion {
		return fmt.Errorf("%w: the source speaks version %d, this build %d", ErrProtocol, g.Version, requestVersion)
	}
	return nil
}

// printable makes a peer's words fit for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s[:min(len(s), 500)])
}

func sendJSON(c *wire.Conn, t wire.Type, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Send(t, b)
}
