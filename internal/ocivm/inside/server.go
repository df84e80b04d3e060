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
func (s *server) serve(vm *microvm.VM, log *slog.Logger) {
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
				code, err := answer(vm, c)
				r := ocivm.Reply{Code: code}
				if err != nil {
					r.Error = err.Error()
				}
				_ = json.NewEncoder(c).Encode(r) // the client is gone
			}()
		}
	}()
}

// answer runs one process for a client.
func answer(vm *microvm.VM, c *net.UnixConn) (int, error) {
	dec, files, err := receive(c)
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var first ocivm.Request
	if err := dec.Decode(&first); err != nil {
		return workload.ExitOwnFailure, fmt.Errorf("request: %w", err)
	}
	ctx := context.Background()
	switch first.Do {
	case ocivm.Pause:
		return 0, vm.Pause(ctx)
	case ocivm.Resume:
		return 0, vm.Resume(ctx)
	}
	if first.Process == nil {
		return workload.ExitOwnFailure, errors.New("exec: no process")
	}
	in, err := newInput(files[0])
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	defer in.stop()
	p, err := vm.Exec(ctx, first.Process, workload.Stdio{In: in, Out: files[1], Err: files[2]})
	if err != nil {
		return codeOf(err), err
	}
	go func() {
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
	if err == nil && exit.Err != "" {
		err = errors.New(exit.Err)
	}
	return exit.Code, err
}

// receive takes the three standard streams and returns the reader of what the
// client says. Who wants no process sends whatever streams it has.
func receive(c *net.UnixConn) (*json.Decoder, [3]*os.File, error) {
	var files [3]*os.File
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, files, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, files, errors.Join(errors.New("exec: no standard streams came"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != len(files) {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, files, errors.Join(errors.New("exec: no standard streams came"), err)
	}
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), "stream")
	}
	return json.NewDecoder(io.MultiReader(bytes.NewReader(buf[:n]), io.LimitReader(c, ocivm.MaxConfig))), files, nil
}
