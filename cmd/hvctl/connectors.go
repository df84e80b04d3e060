package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/rendezvous"
	"github.com/hvctl/hvctl/migrate/transport"
)

// The owner of a VM makes no connections. Processes that a command starts do that for
// it, and outlive the command: a destination may have to be asked later. Each ends by
// itself when it is not needed any more.

// The commands of these processes.
const (
	verbDial  = "dial"  // connects to a destination, for the source's owner
	verbDesk  = "desk"  // hands out connections that a destination makes, to the source's owner
	verbReach = "reach" // makes those connections, and joins them to the destination's owner
)

// lendDialer starts a process that connects to address for an owner, and returns
// the owner's end to it.
func lendDialer(address string) (*os.File, error) {
	here, there, err := handoff.Pair()
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if _, err := startConnector(nil, []*os.File{there}, verbDial, address); err != nil {
		return nil, errors.Join(err, here.Close())
	}
	return here, nil
}

// lendDesk is lendDialer for a destination that makes the connections, to l.
func lendDesk(l *net.TCPListener, key rendezvous.Key) (*os.File, error) {
	here, there, err := handoff.Pair()
	if err != nil {
		return nil, err
	}
	defer there.Close()
	file, err := l.File()
	if err == nil {
		defer file.Close()
		_, err = startConnector(strings.NewReader(key.String()), []*os.File{there, file}, verbDesk)
	}
	if err != nil {
		return nil, errors.Join(err, here.Close())
	}
	return here, nil
}

// startReach starts the process that connects to address, and joins what is used there
// to the socket path.
func startReach(address, path string, key rendezvous.Key) (*exec.Cmd, error) {
	return startConnector(strings.NewReader(key.String()), nil, verbReach, address, path)
}

// startConnector starts this program as one of these processes. Secrets come by its
// input. Who waits for it is up to the caller when it gets its input that way.
func startConnector(in io.Reader, files []*os.File, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{"migrate"}, args...)...)
	cmd.Dir, cmd.ExtraFiles = "/", files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var pipe io.WriteCloser
	if in != nil {
		if pipe, err = cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start what makes the connections: %w", err)
	}
	if pipe != nil {
		_, err := io.Copy(pipe, in)
		if err = errors.Join(err, pipe.Close()); err != nil {
			_ = cmd.Process.Kill()
			return nil, errors.Join(err, cmd.Wait())
		}
	}
	if len(files) > 0 {
		go func() { _ = cmd.Wait() }()
	}
	return cmd, nil
}

func cmdMigrateDial() *cli.Command {
	return connector(verbDial, "ADDRESS", func(c *cli.Context) error {
		return transport.ServeDial(given(3), c.Args().First())
	})
}

func (p *program) cmdMigrateDesk() *cli.Command {
	return connector(verbDesk, "", func(c *cli.Context) error {
		key, err := p.keyGiven()
		if err != nil {
			return err
		}
		file := given(4)
		l, err := net.FileListener(file)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return fmt.Errorf("%T is no listener for TCP", l)
		}
		return (&rendezvous.Desk{Listener: tcp, Key: key, Log: slog.New(slog.DiscardHandler)}).Serve(given(3))
	})
}

func (p *program) cmdMigrateReach() *cli.Command {
	return connector(verbReach, "ADDRESS PATH", func(c *cli.Context) error {
		address, path := c.Args().Get(0), c.Args().Get(1)
		key, err := p.keyGiven()
		if err != nil {
			return err
		}
		var d net.Dialer
		err = (&rendezvous.Puller{
			Key:   key,
			Dial:  func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) },
			Local: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
			Log:   slog.New(slog.DiscardHandler),
		}).Run(c.Context)
		_, _ = os.Remove(path), os.Remove(filepath.Dir(path)) // the socket may be gone already
		return err
	})
}

func connector(verb, args string, do cli.ActionFunc) *cli.Command {
	return &cli.Command{
		Name: verb, Hidden: true, ArgsUsage: args, Usage: "make connections for an owner (started by hvctl, not by hand)", Action: do,
	}
}

// given is a file that startConnector's caller has passed.
func given(fd int) *os.File {
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "given")
}

func (p *program) keyGiven() (rendezvous.Key, error) {
	b, err := io.ReadAll(io.LimitReader(os.Stdin, 256))
	if err != nil {
		return rendezvous.Key{}, err
	}
	return rendezvous.ParseKey(string(b))
}
