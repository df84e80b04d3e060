package inside

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"

	"github.com/hvctl/hvctl/internal/ocivm"
	"github.com/hvctl/hvctl/internal/ocivm/config"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Exec has the owner run a process with our standard streams, passes signals
// on, and returns the process's exit code. With join it is the first process of
// this container, in a pod, and the owner is given the container's tree.
func Exec(join bool) (int, error) {
	var first ocivm.Request
	f := os.NewFile(ocivm.FDExecRequest, "request")
	err := json.NewDecoder(io.LimitReader(f, ocivm.MaxConfig)).Decode(&first)
	f.Close()
	if err != nil {
		return workload.ExitOwnFailure, fmt.Errorf("request (descriptor %d): %w", ocivm.FDExecRequest, err)
	}
	files := []int{0, 1, 2}
	p, m := first.Process, config.Member{}
	if join {
		root, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return workload.ExitOwnFailure, err
		}
		defer root.Close()
		if err := json.Unmarshal(first.Join, &m); err != nil {
			return workload.ExitOwnFailure, fmt.Errorf("request (descriptor %d): %w", ocivm.FDExecRequest, err)
		}
		files, p = append(files, int(root.Fd())), m.Spec.Process
	}
	c, err := connection(ocivm.FDExecSocket)
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	defer c.Close()
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	tty, err := newTerminal(p.Terminal, os.Stdin)
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	defer tty.restore()
	if p.Terminal {
		if ws, err := unix.IoctlGetWinsize(tty.fd, unix.TIOCGWINSZ); err == nil && ws.Col > 0 && ws.Row > 0 {
			p.ConsoleSize = &specs.Box{Width: uint(ws.Col), Height: uint(ws.Row)}
		}
	}
	if join {
		if first.Join, err = json.Marshal(m); err != nil {
			return workload.ExitOwnFailure, err
		}
	}
	text, err := json.Marshal(first)
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	// The streams come with the first byte, the rest follows as it fits.
	if _, _, err := c.WriteMsgUnix(text[:1], unix.UnixRights(files...), nil); err != nil {
		return workload.ExitOwnFailure, fmt.Errorf("exec: %w", err)
	}
	if _, err := c.Write(text[1:]); err != nil {
		return workload.ExitOwnFailure, fmt.Errorf("exec: %w", err)
	}
	go tell(c, signals, tty)
	var r ocivm.Reply
	if err := json.NewDecoder(c).Decode(&r); err != nil {
		return workload.SignalExitCode(int(unix.SIGKILL)), errors.New("exec: the VM has ended")
	}
	if r.Error != "" {
		err = errors.New(r.Error)
	}
	return r.Code, err
}

// tell passes on signals and sizes.
func tell(c io.Writer, signals <-chan os.Signal, tty *terminal) {
	enc := json.NewEncoder(c)
	for sig := range signals {
		n, ok := sig.(unix.Signal)
		var r ocivm.Request
		switch {
		case !ok || n == unix.SIGCHLD || n == unix.SIGURG || n == unix.SIGPIPE:
			continue
		case n == unix.SIGWINCH && tty.on:
			ws, err := unix.IoctlGetWinsize(tty.fd, unix.TIOCGWINSZ)
			if err != nil {
				continue
			}
			r = ocivm.Request{Columns: ws.Col, Rows: ws.Row}
		default:
			r = ocivm.Request{Signal: int(n)}
		}
		if enc.Encode(r) != nil {
			return // the reply is on its way, or the VM has ended
		}
	}
}

func connection(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("connection (descriptor %d): %w", fd, err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("connection (descriptor %d): not a unix socket", fd)
	}
	return uc, nil
}
