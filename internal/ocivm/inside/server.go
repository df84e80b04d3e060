package inside

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"github.com/hvctl/hvctl/internal/microvm"
	"github.com/hvctl/hvctl/internal/ocivm"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// server runs further processes in the guest for whoever connects: hvctl-oci
// alone can, by a socket in its state directory.
type server struct{ l *net.UnixListener }

// maxExecs bounds the clients at a time.
const maxExecs = 256

func listener(fd int) (*server, error) {
	f := os.NewFile(uintptr(fd), "exec socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("exec socket: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.New("exec socket: not a unix socket")
	}
	ul.SetUnlinkOnClose(false)
	return &server{ul}, nil
}

// serve answers until the process ends.
func (s *server) serve(h host, log *slog.Logger) {
	slots := make(chan struct{}, maxExecs)
	go func() {
		for {
			c, err := s.l.AcceptUnix()
			if err != nil {
				log.Error("exec socket", "err", err)
				return
			}
			slots <- struct{}{}
			go func() {
				defer func() { c.Close(); <-slots }()
				code, err := h.answer(c)
				r := ocivm.Reply{Code: code}
				if err != nil {
					r.Error = err.Error()
				}
				_ = json.NewEncoder(c).Encode(r) // the client is gone
			}()
		}
	}()
}

// host runs what clients ask for.
type host struct {
	*microvm.VM
	pod *microvm.Pod // nil: the VM is one container's
}

// answer runs one process for a client.
func (h host) answer(c *net.UnixConn) (int, error) {
	dec, files, err := receive(c)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	var first ocivm.Request
	if err := dec.Decode(&first); err != nil {
		return workload.ExitOwnFailure, fmt.Errorf("request: %w", err)
	}
	ctx, over := context.WithCancel(context.Background())
	defer over()
	switch {
	case first.Do == ocivm.Pause:
		return 0, h.Pause(ctx)
	case first.Do == ocivm.Resume:
		return 0, h.Resume(ctx)
	case first.Do == ocivm.Remove && h.pod != nil:
		return 0, h.pod.Remove(first.Container)
	case first.Do != "":
		return workload.ExitOwnFailure, fmt.Errorf("request: cannot %q", first.Do)
	}
	in, err := newInput(files[0])
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	defer in.stop()
	p, err := h.start(ctx, &first, workload.Stdio{In: in, Out: files[1], Err: files[2]}, files[streams:])
	if err != nil {
		return codeOf(err), err
	}
	m, joined := p.(*microvm.Member)
	go func() {
		if joined { // without its client the container is gone, whatever the guest says
			defer func() { _ = m.Remove(); over() }()
		}
		for {
			var r ocivm.Request
			if err := dec.Decode(&r); err != nil {
				return // the client is gone, or the process has ended
			}
			if r.Signal > 0 {
				_ = p.Signal(ctx, unix.Signal(r.Signal)) // it may have ended
			}
			if r.Columns > 0 && r.Rows > 0 {
				_ = p.Resize(ctx, r.Columns, r.Rows)
			}
		}
	}()
	exit, err := p.Wait(ctx)
	if joined {
		_ = m.Remove()
	}
	if err == nil && exit.Err != "" {
		err = errors.New(exit.Err)
	}
	return exit.Code, err
}

// start starts what is asked for; more are the files after the streams.
func (h host) start(ctx context.Context, r *ocivm.Request, io workload.Stdio, more []*os.File) (workload.Process, error) {
	switch {
	case r.Join != nil && h.pod != nil:
		return h.join(ctx, r, io, more)
	case r.Process == nil:
		return nil, errors.New("exec: no process")
	case h.pod != nil:
		return h.pod.ExecIn(ctx, r.Container, r.Process, io)
	}
	return h.Exec(ctx, r.Process, io)
}

// streams is how many come with every request.
const streams = 3

// receive takes the three standard streams, and what other files there are, and
// returns the reader of what the client says. Who wants no process sends whatever
// streams it has. The files are the caller's to close, whatever the error.
func receive(c *net.UnixConn) (*json.Decoder, []*os.File, error) {
	const most = streams + 1
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(most*4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, nil, errors.Join(errors.New("exec: no standard streams came"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	var files []*os.File
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "stream"))
	}
	if err != nil || len(fds) < streams {
		return nil, files, errors.Join(errors.New("exec: no standard streams came"), err)
	}
	return json.NewDecoder(io.MultiReader(bytes.NewReader(buf[:n]), io.LimitReader(c, ocivm.MaxConfig))), files, nil
}
