package usernet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"github.com/hvctl/hvctl/internal/hostnet"
)

// maxConfig bounds what the owner tells.
const maxConfig = 1 << 20

// Serve is hvctl-net's life: it reads a hostnet.UserConfig from the owner,
// answers with a hostnet.UserReady, and is the network of the instance behind
// frames until the owner hangs up or the frames end, which is no error. frames
// is a tap or a socket that keeps frames apart, and non-blocking.
func Serve(owner net.Conn, frames *os.File, log *slog.Logger) error {
	defer owner.Close()
	defer frames.Close()
	n, bound, err := prepare(owner, log)
	if err != nil {
		return errors.Join(err, answer(owner, hostnet.UserReady{Error: err.Error()}))
	}
	defer bound.Close()
	defer n.Close()
	bound.Serve(n, log)
	if err := answer(owner, hostnet.UserReady{Ports: bound.Ports()}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, owner) // it says no more; this ends with it
		_ = frames.Close()
	}()
	go func() {
		defer frames.Close()
		send(ctx, n, frames)
	}()
	return receive(n, frames)
}

// prepare does what needs privileges, and gives them up.
func prepare(owner net.Conn, log *slog.Logger) (*Stack, *hostnet.Bound, error) {
	var c hostnet.UserConfig
	d := json.NewDecoder(io.LimitReader(owner, maxConfig))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return nil, nil, fmt.Errorf("configuration of the user-mode network: %w", err)
	}
	if err := c.Check(); err != nil {
		return nil, nil, err
	}
	bound, err := hostnet.Bind(c.Publish)
	if err != nil {
		return nil, nil, err
	}
	n, err := New(&c, log)
	if err == nil {
		err = dropPrivileges()
	}
	if err == nil {
		err = confine()
	}
	if err != nil {
		bound.Close()
		return nil, nil, err
	}
	return n, bound, nil
}

func answer(owner net.Conn, r hostnet.UserReady) error {
	return json.NewEncoder(owner).Encode(r)
}

// receive hands the instance's frames to the stack.
func receive(n *Stack, frames io.Reader) error {
	buf := make([]byte, maxFrame)
	for {
		size, err := frames.Read(buf)
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("frames of the instance: %w", err)
		}
		n.Input(buf[:size])
	}
}

// send hands the stack's frames to the instance. While that takes none, frames
// wait, and then the stack loses some, as networks do.
func send(ctx context.Context, n *Stack, frames io.Writer) {
	buf := make([]byte, maxFrame)
	for size := n.Output(ctx, buf); size > 0; size = n.Output(ctx, buf) {
		if _, err := frames.Write(buf[:size]); err != nil {
			return // receive says why, if it is not the end
		}
	}
}
