package nscontainer

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// streams connect a process with workload.Stdio: by pipes, or by a terminal
// that is made inside the container and comes over a socket.
type streams struct {
	io       workload.Stdio
	terminal bool

	theirs [3]*os.File // the process's ends, until it runs
	socket *os.File    // the process's end of the way its terminal comes
	await  *os.File    // our end of that

	master *os.File // the terminal
	stdin  *os.File // where input goes; nil: nowhere
	out    [2]*os.File
	pumps  sync.WaitGroup
	once   sync.Once // the end of the input
}

// connect prepares the streams of a process.
func (c *Container) connect(io workload.Stdio, spec *specs.Process) (*process, error) {
	p := &process{c: c, streams: streams{io: io, terminal: spec.Terminal}, ended: make(chan struct{}), done: make(chan struct{})}
	err := p.null()
	switch {
	case err != nil:
	case spec.Terminal:
		err = p.console()
	default:
		err = p.pipes(spec.User)
	}
	if err != nil {
		p.closeTheirs()
		p.abandon()
		return nil, err
	}
	return p, nil
}

// null connects everything with nothing, to begin with.
func (s *streams) null() error {
	for i := range s.theirs {
		f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		s.theirs[i] = f
	}
	return nil
}

func (s *streams) console() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	s.await, s.socket = os.NewFile(uintptr(pair[0]), "console"), os.NewFile(uintptr(pair[1]), "console")
	return nil
}

func (s *streams) pipes(user specs.User) error {
	for i, wanted := range []bool{s.io.In != nil, s.io.Out != nil, s.io.Err != nil} {
		if !wanted {
			continue
		}
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return os.NewSyscallError("pipe2", err)
		}
		own, child := p[0], p[1]
		if i == 0 {
			own, child = child, own
		}
		// The process may open its streams again by name (/dev/stdout), so the
		// pipe belongs to its user.
		_ = unix.Fchown(child, int(user.UID), int(user.GID))
		s.theirs[i].Close()
		s.theirs[i] = os.NewFile(uintptr(child), "stream") // which blocks, as programs expect
		if err := unix.SetNonblock(own, true); err != nil {
			unix.Close(own)
			return os.NewSyscallError("fcntl", err)
		}
		ours := os.NewFile(uintptr(own), "stream")
		if i == 0 {
			s.stdin = ours
		} else {
			s.out[i-1] = ours
		}
	}
	return nil
}

func (s *streams) closeTheirs() {
	for i, f := range s.theirs {
		if f != nil {
			f.Close()
			s.theirs[i] = nil
		}
	}
	if s.socket != nil {
		s.socket.Close()
	}
}

// abandon closes our ends of a process that never ran.
func (s *streams) abandon() {
	for _, f := range []*os.File{s.await, s.stdin, s.out[0], s.out[1]} {
		if f != nil {
			f.Close()
		}
	}
}

// receiveTerminal takes the terminal that the process was given.
func (s *streams) receiveTerminal() error {
	if !s.terminal {
		return nil
	}
	defer s.await.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(s.await.Fd()), make([]byte, 64), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("receive the terminal", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return errors.Join(errors.New("no terminal came"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return errors.Join(errors.New("no terminal came"), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return os.NewSyscallError("fcntl", err)
	}
	s.master = os.NewFile(uintptr(fds[0]), "terminal")
	s.stdin, s.out[0] = s.master, s.master
	return nil
}

// start begins to carry what is written and read.
func (s *streams) start() {
	for i, to := range []io.Writer{s.io.Out, s.io.Err} {
		from := s.out[i]
		if from == nil {
			continue
		}
		if to == nil {
			to = io.Discard // a terminal that nobody watches must not fill up
		}
		s.pumps.Go(func() { pump(to, from) })
	}
	if s.io.In != nil {
		go func() { // ends with io.In, or when the process has closed its input
			_, err := io.Copy(s.stdin, s.io.In)
			switch {
			case s.master == nil:
				s.endInput()
			case err == nil:
				_, _ = s.master.Write([]byte{4}) // ^D, the usual VEOF
			}
		}()
	}
}

func (s *streams) endInput() {
	if s.master == nil && s.stdin != nil {
		s.once.Do(func() { s.stdin.Close() })
	}
}

// pump carries output until the last writer is gone, or, after the process has
// ended (a deadline says so), until there is nothing left.
func pump(to io.Writer, from *os.File) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				to = io.Discard
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			for n := readNow(from, buf); n > 0; n = readNow(from, buf) {
				_, _ = to.Write(buf[:n])
			}
			return
		default: // a terminal ends with EIO
			return
		}
	}
}

// readNow reads what is there; 0: nothing.
func readNow(f *os.File, buf []byte) int {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = rc.Control(func(fd uintptr) {
		if n, err = unix.Read(int(fd), buf); err != nil {
			n = 0
		}
	})
	return n
}

// finish is called when the process has ended: what it wrote is delivered, and
// everything is closed. Others may still hold the pipes; what they write goes
// nowhere.
func (s *streams) finish() {
	for _, f := range s.out {
		if f != nil {
			_ = f.SetReadDeadline(time.Unix(1, 0))
		}
	}
	s.pumps.Wait()
	for _, f := range s.out {
		if f != nil {
			f.Close()
		}
	}
	s.endInput()
}
