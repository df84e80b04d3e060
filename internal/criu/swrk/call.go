package swrk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"github.com/hvctl/hvctl/internal/criu"
	"golang.org/x/sys/unix"
)

// maxMessage bounds an answer. They have no lists.
const maxMessage = 64 << 10

// Dump implements criu.Driver.
func (t *Tool) Dump(ctx context.Context, j *criu.Job, pre bool) error {
	kind := rpc.CriuReqType_DUMP
	if pre {
		kind = rpc.CriuReqType_PRE_DUMP
	}
	_, err := t.call(ctx, &rpc.CriuReq{Type: &kind, Opts: message(&j.Options)}, j)
	return err
}

// Restore implements criu.Driver.
func (t *Tool) Restore(ctx context.Context, j *criu.Job) (pid int, err error) {
	opts := message(&j.Options)
	opts.RstSibling = new(true)
	resp, err := t.call(ctx, &rpc.CriuReq{Type: new(rpc.CriuReqType_RESTORE), Opts: opts}, j)
	return int(resp.GetRestore().GetPid()), err
}

// errDied is how a CRIU that fails at once shows.
var errDied = errors.New("criu died before it answered")

// call starts CRIU for one request and accompanies it to its answer.
func (t *Tool) call(ctx context.Context, req *rpc.CriuReq, j *criu.Job) (resp *rpc.CriuResp, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "criu"), os.NewFile(uintptr(pair[1]), "criu")
	defer ours.Close()
	cmd := exec.CommandContext(ctx, t.Path, "swrk", strconv.Itoa(criu.FirstFile+len(j.Files))) //nolint:gosec // CRIU from PATH
	cmd.ExtraFiles = append(append([]*os.File{}, j.Files...), theirs)
	if j.Group != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(j.Group.Fd())}
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("criu: %w", err)
	}
	defer func() {
		ours.Close() // it ends with the connection
		if werr := cmd.Wait(); err == nil && ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), werr)
		}
	}()
	for {
		b, err := req.MarshalVT()
		if err == nil {
			err = unix.Send(int(ours.Fd()), b, unix.MSG_NOSIGNAL)
		}
		if errors.Is(err, unix.EPIPE) {
			return nil, errDied
		}
		if err != nil {
			return nil, fmt.Errorf("criu: send a request: %w", err)
		}
		resp, fd, err := receive(ours)
		if err != nil {
			return nil, errors.Join(err, context.Cause(ctx))
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			fd.Close()
			return resp, verdict(resp)
		}
		n := resp.GetNotify()
		if j.Notify != nil {
			err = j.Notify(n.GetScript(), int(n.GetPid()), fd)
		}
		fd.Close()
		if err != nil {
			return nil, err
		}
		req = &rpc.CriuReq{Type: new(rpc.CriuReqType_NOTIFY), NotifySuccess: new(true)}
	}
}

// verdict is the error that an answer tells of.
func verdict(resp *rpc.CriuResp) error {
	if resp.GetSuccess() {
		return nil
	}
	err := errors.New("criu failed") // its message is in the log, too
	if no := resp.GetCrErrno(); no != 0 {
		err = fmt.Errorf("%w (%w)", err, unix.Errno(no))
	}
	return err
}

// receive reads one message and the descriptor that comes with it; nil: none
// does.
func receive(conn *os.File) (*rpc.CriuResp, *os.File, error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	var n, m int
	for {
		var flags int
		var err error
		n, m, flags, _, err = unix.Recvmsg(int(conn.Fd()), b, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err == nil && n == 0, err == unix.ECONNRESET:
			return nil, nil, errDied
		case err != nil:
			return nil, nil, fmt.Errorf("criu: receive its answer: %w", err)
		case flags&unix.MSG_TRUNC != 0:
			return nil, nil, fmt.Errorf("criu: an answer of more than %d bytes", maxMessage)
		}
		break
	}
	var file *os.File
	if msgs, err := unix.ParseSocketControlMessage(oob[:m]); err == nil && len(msgs) == 1 {
		if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
			file = os.NewFile(uintptr(fds[0]), "from criu")
		}
	}
	resp := new(rpc.CriuResp)
	if err := resp.UnmarshalVT(b[:n]); err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("criu: an answer that is none: %w", err)
	}
	return resp, file, nil
}
