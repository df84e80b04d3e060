package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const defaultDetachKeys = "ctrl-p,ctrl-q"

func detachFlag() cli.Flag {
	return &cli.StringFlag{Name: "detach-keys", Value: defaultDetachKeys, Usage: "leave a terminal session running with `KEYS`"}
}

// session connects our terminal or pipes with a process.
type session struct {
	stream     *control.Stream
	stdin      bool   // forward standard input
	tty        bool   // the process has a terminal
	detachKeys []byte // with tty; nil: none
	proxy      bool   // forward signals
}

// copy runs the session until the process ends or the user detaches. Our
// terminal is restored on every way out.
func (p *program) copy(s session) (workload.Exit, error) {
	var in io.Reader
	fd := int(p.stdin.Fd())
	if s.stdin {
		in = p.stdin
	}
	raw := s.tty && term.IsTerminal(fd)
	if raw && s.stdin {
		old, err := term.MakeRaw(fd)
		if err != nil {
			return workload.Exit{}, fmt.Errorf("terminal: %w", err)
		}
		defer func() { _ = term.Restore(fd, old) }()
		if len(s.detachKeys) > 0 {
			in = &detachReader{r: p.stdin, keys: s.detachKeys}
		}
	}
	sigs := make(chan os.Signal, 16)
	forward := []os.Signal{unix.SIGTERM, unix.SIGHUP}
	if s.proxy {
		forward = append(forward, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	}
	if raw {
		forward = append(forward, unix.SIGWINCH)
	}
	signal.Notify(sigs, forward...)
	defer signal.Stop(sigs)
	done := make(chan struct{})
	defer close(done)
	go s.signals(sigs, done, func() (uint16, uint16) {
		c, r := p.terminalSize()
		return uint16(c), uint16(r)
	})
	if raw { // it may have changed since the process was asked for
		sigs <- unix.SIGWINCH
	}
	return s.stream.Copy(in, p.stdout, p.stderr)
}

// signals passes on what we get. The second SIGINT or SIGTERM kills.
func (s session) signals(sigs <-chan os.Signal, done <-chan struct{}, size func() (uint16, uint16)) {
	asked := false
	for {
		select {
		case <-done:
			return
		case sig := <-sigs:
			switch n := sig.(unix.Signal); n {
			case unix.SIGWINCH:
				if c, r := size(); c > 0 && r > 0 {
					_ = s.stream.Resize(c, r)
				}
			case unix.SIGINT, unix.SIGTERM:
				if asked {
					n = unix.SIGKILL
				}
				asked = true
				_ = s.stream.Signal(int(n))
			default:
				_ = s.stream.Signal(int(n)) // fails when the stream ended, which Copy reports
			}
		}
	}
}

// ended turns the end of the first process's session into our own.
func (p *program) ended(ctx context.Context, h *launch.Handle, exit workload.Exit, err error) error {
	switch {
	case errors.Is(err, control.ErrDetached):
		return nil
	case errors.Is(err, control.ErrGone):
		return p.lost(ctx, h)
	case err != nil && exit.At.IsZero():
		return err
	}
	h.Bury(ctx)
	if err != nil {
		fmt.Fprintf(p.stderr, "hvctl: %s: output: %v\n", h.Name(), err)
	}
	return p.status(h.Name(), exit)
}

// lost finds out why the owner hung up on us.
func (p *program) lost(ctx context.Context, h *launch.Handle) error {
	// One that dies closes the connection first and lets go of its lock a moment
	// later.
	moment, cancel := context.WithTimeout(ctx, ownerGrace)
	err := h.AwaitChange(moment, func(st workload.State) bool { return st.PID == 0 })
	cancel()
	if errors.Is(err, context.DeadlineExceeded) {
		fmt.Fprintf(p.stderr, "hvctl: %s: output was not read for %v, the rest is only in `hvctl logs %s`\n", h.Name(), control.StallTimeout, h.Name())
	}
	exit, err := h.Wait(ctx)
	if err != nil {
		return err
	}
	if h.Config().AutoRemove { // as its owner would have
		_ = h.Delete(ctx)
		if h.Backend != nil {
			_ = cleanup(ctx, h.Backend, h)
		}
	}
	return p.status(h.Name(), exit)
}

// status is exit as our own exit status.
func (p *program) status(name string, exit workload.Exit) error {
	switch {
	case exit.Err != "":
		fmt.Fprintf(p.stderr, "hvctl: %s: %s\n", name, exit.Err)
	case exit.OOM:
		fmt.Fprintf(p.stderr, "hvctl: %s: ended for lack of memory; give it more with --memory\n", name)
	}
	if exit.Code == 0 {
		return nil
	}
	return exitStatus(exit.Code)
}

// ownerGrace is how long we wait for an owner of ours to be gone altogether,
// so that nothing is left of `run --rm` when it returns.
const ownerGrace = 2 * time.Second

// parseDetachKeys reads "ctrl-p,ctrl-q", "a,b", or "" for none.
func parseDetachKeys(s string) ([]byte, error) {
	var keys []byte
	if s == "" {
		return nil, nil
	}
	for start, i := 0, 0; i <= len(s); i++ {
		if i < len(s) && s[i] != ',' {
			continue
		}
		k := s[start:i]
		start = i + 1
		switch {
		case len(k) == 1:
			keys = append(keys, k[0])
		case len(k) == 6 && k[:5] == "ctrl-" && k[5] >= '@' && k[5] <= 'z':
			keys = append(keys, k[5]&0x1f)
		default:
			return nil, fmt.Errorf("detach keys %q: want single characters or ctrl-X, with commas between", s)
		}
	}
	return keys, nil
}

// detachReader ends with control.ErrDetached when keys were typed. Keys that
// begin the sequence are held back until it is known not to go on.
type detachReader struct {
	r    io.Reader
	keys []byte
	seen int    // keys held back
	out  []byte // to be read
	err  error  // after out
}

// Read implements io.Reader.
func (d *detachReader) Read(b []byte) (int, error) {
	var buf [1024]byte
	for len(d.out) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.r.Read(buf[:])
		d.err = err
		if slices.ContainsFunc(buf[:n], d.key) {
			d.err = control.ErrDetached
		}
		if d.err != nil && !errors.Is(d.err, control.ErrDetached) {
			d.out = append(d.out, d.keys[:d.seen]...)
			d.seen = 0
		}
	}
	n := copy(b, d.out)
	d.out = d.out[n:]
	return n, nil
}

// key takes one byte and tells whether it ends the sequence.
func (d *detachReader) key(c byte) bool {
	held := append(append([]byte(nil), d.keys[:d.seen]...), c)
	if bytes.Equal(held, d.keys) {
		return true
	}
	// What can still become the sequence stays: the longest end of held that
	// the sequence begins with.
	n := min(len(held), len(d.keys)-1)
	for ; n > 0 && !bytes.Equal(held[len(held)-n:], d.keys[:n]); n-- {
	}
	d.out = append(d.out, held[:len(held)-n]...)
	d.seen = n
	return false
}
