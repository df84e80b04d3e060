package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/hvctl/hvctl/container"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// session is a process in the foreground: signals go to it, and its terminal,
// if it has one, is joined to ours.
type session struct {
	ours, theirs *os.File // connection that the terminal comes over; nil: none
	master       *os.File
	restore      func()
	signals      chan os.Signal
	copied       chan struct{}
}

// forwarded are the signals that people and programs send. Each costs two
// switches of threads to ask for, so all 64 would cost more than the start of
// a process.
var forwarded = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH}

// newSession prepares for a process; terminal means that it gets one, and that
// nobody else takes it.
func newSession(terminal bool, consoleSocket string) (*session, error) {
	s := &session{restore: func() {}, signals: make(chan os.Signal, 64)}
	go signal.Notify(s.signals, forwarded...) // it takes its time, and the other processor
	if !terminal || consoleSocket != "" {
		return s, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	s.ours, s.theirs = os.NewFile(uintptr(pair[0]), "console"), os.NewFile(uintptr(pair[1]), "console")
	return s, nil
}

// leftBehind is how long after its end a process's terminal is still read, if
// others that it started have it open.
const leftBehind = 2 * time.Second

func (s *session) socket() *os.File { return s.theirs }

// wait accompanies the process until it ends and returns its exit code, or 128
// and the signal that killed it.
func (s *session) wait(p *container.Proc) (int, error) {
	defer s.close()
	if s.ours != nil {
		if err := s.terminal(); err != nil {
			return 1, err
		}
	}
	done := make(chan struct{})
	defer close(done)
	go s.forward(p, done)
	var st unix.WaitStatus
	for {
		_, err := unix.Wait4(p.PID, &st, 0, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return 1, fmt.Errorf("wait for process %d: %w", p.PID, err)
		}
	}
	if s.copied != nil { // the rest of the output
		select {
		case <-s.copied:
		case <-time.After(leftBehind):
		}
	}
	if st.Signaled() {
		return 128 + int(st.Signal()), nil
	}
	return st.ExitStatus(), nil
}

// forward passes signals on.
func (s *session) forward(p *container.Proc, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case sig := <-s.signals:
			n, ok := sig.(unix.Signal)
			switch {
			case !ok:
			case n == unix.SIGWINCH && s.master != nil:
				s.resize()
			default:
				_ = unix.PidfdSendSignal(int(p.FD.Fd()), n, nil, 0) // it may have ended
			}
		}
	}
}

// terminal receives the terminal and joins it to ours.
func (s *session) terminal() error {
	s.theirs.Close()
	master, err := receiveFile(s.ours)
	if err != nil {
		return fmt.Errorf("receive the terminal: %w", err)
	}
	s.master = master
	s.resize()
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		old, err := term.MakeRaw(fd)
		if err != nil {
			return err
		}
		s.restore = func() { _ = term.Restore(fd, old) }
	}
	s.copied = make(chan struct{})
	go func() { _, _ = io.Copy(s.master, os.Stdin) }() // ends with the program
	go func() {
		_, _ = io.Copy(os.Stdout, s.master) // EIO when the last holder of the other end is gone
		close(s.copied)
	}()
	return nil
}

// resize gives the container's terminal the size of ours.
func (s *session) resize() {
	if ws, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, ws)
	}
}

// close lets go of the terminal. Signals stay caught: the program ends soon.
func (s *session) close() {
	s.restore()
	for _, f := range []*os.File{s.ours, s.theirs, s.master} {
		if f != nil {
			f.Close()
		}
	}
}

// receiveFile takes one descriptor from a connection.
func receiveFile(conn *os.File) (*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(conn.Fd()), make([]byte, 64), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, errors.Join(errors.New("no descriptor came"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("no descriptor came"), err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
