package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// VerbKeep has a program be an attachment's keeper (Keep): its one argument.
const VerbKeep = "keep-network"

const (
	// keeperLink is the keeper's socket to the owner; what it keeps follows.
	keeperLink = 3
	// keeperGrace is how long a keeper may take to do what it is asked; a CNI
	// network's plugins have a minute.
	keeperGrace = cniTimeout + 10*time.Second
	// maxKeeper bounds what either side says at a time, in bytes, and maxVerb a
	// question.
	maxKeeper, maxVerb = 1 << 20, 64
)

// What an owner asks of a keeper. The end of the socket means endKeeping, too.
const (
	endKeeping = "end"
	checkCNI   = "check"
)

// kept is what a keeper is told: an attachment to a bridge, with the sockets of
// Ports and then those of the DNS forwarder as its files; or one to a CNI network,
// with the network namespace.
type kept struct {
	Root    string       `json:"root"`
	ID      string       `json:"id"`
	Bridge  string       `json:"bridge,omitempty"`
	NoNAT   bool         `json:"noNAT,omitempty"`
	TapName string       `json:"tap,omitempty"`
	Index   int          `json:"index,omitempty"` // of the tap, for its name may be another's by then
	IP      netip.Prefix `json:"ip,omitzero"`
	Ports   []Port       `json:"ports,omitempty"`
	DNS     bool         `json:"dns,omitempty"`
	Paths   [2]string    `json:"paths"` // resolv.conf, and that behind systemd-resolved
	CNI     *CNIRequest  `json:"cni,omitempty"`
	Program string       `json:"program,omitempty"` // hvctl-net
}

// keeperAnswer is a keeper's answer to each question.
type keeperAnswer struct {
	Error string `json:"error,omitempty"`
}

// keeper is the process that carries an instance's published ports and name
// service, and takes the instance off the network when its owner is gone, so that
// the owner needs no rights for that.
type keeper struct {
	pid  int
	fd   *os.File      // of the process
	told *kept         // what it is still to be told; nil: it was
	gone chan struct{} // closed when it has ended; nil: it is another process's child
	how  string        // it ended; before gone is closed
	log  *slog.Logger

	mu   sync.Mutex // one question at a time
	link *net.UnixConn
	over bool // it was asked to end
}

// startKeeper starts command with files, which it gets copies of. It waits until
// tell.
func startKeeper(command []string, k kept, files []*os.File, apart bool, log *slog.Logger) (*keeper, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "keeper"), os.NewFile(uintptr(fds[1]), "keeper")
	defer ours.Close()
	defer theirs.Close()
	p := &keeper{told: &k, gone: make(chan struct{}), log: log}
	if p.link, err = unixConn(ours); err != nil {
		return nil, err
	}
	pidfd := -1
	proc, err := start(command[0], command, apart, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: append([]*os.File{nil, nil, os.Stderr, theirs}, files...), Sys: &syscall.SysProcAttr{PidFD: &pidfd},
	})
	if err != nil {
		p.link.Close()
		return nil, fmt.Errorf("start the keeper of the network: %w", err)
	}
	p.pid = proc.Pid
	if pidfd >= 0 {
		p.fd = os.NewFile(uintptr(pidfd), "keeper")
	}
	go func() {
		defer close(p.gone)
		st, err := proc.Wait()
		if p.how = fmt.Sprint(st); err != nil {
			p.how = err.Error()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.over {
			log.Warn("the keeper of the network has ended: published ports and forwarded name service have ended with it", "pid", p.pid, "how", p.how)
		}
	}()
	return p, nil
}

// start starts a process, if apart with a mount namespace of its own, where that is
// possible.
func start(program string, argv []string, apart bool, attr *os.ProcAttr) (*os.Process, error) {
	if !apart {
		return os.StartProcess(program, argv, attr)
	}
	attr.Sys.Cloneflags |= unix.CLONE_NEWNS
	p, err := os.StartProcess(program, argv, attr)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) { // then ours is not, either
		attr.Sys.Cloneflags &^= unix.CLONE_NEWNS
		p, err = os.StartProcess(program, argv, attr)
	}
	return p, err
}

// unixConn is a copy of a socket.
func unixConn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%w: the keeper's socket is none of AF_UNIX", ErrState)
	}
	return u, nil
}

// tell has the keeper begin, unless it has.
func (p *keeper) tell() error {
	if p.told == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := json.NewEncoder(p.link).Encode(p.told)
	p.told = nil
	return wrapNil("tell the keeper of the network what to keep", err)
}

// ask waits for the answer to one question.
func (p *keeper) ask(what string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = p.over || what == endKeeping
	err := p.link.SetDeadline(time.Now().Add(keeperGrace))
	if err == nil {
		err = json.NewEncoder(p.link).Encode(what)
	}
	var a keeperAnswer
	if err == nil {
		err = json.NewDecoder(io.LimitReader(p.link, maxKeeper)).Decode(&a)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w (process %d): %w; the next start, stop or rm of hvctl takes back what is left", errKeeper, p.pid, err)
	case a.Error != "":
		return errors.New(a.Error)
	}
	return nil
}

// errKeeper says that the keeper does not answer.
var errKeeper = errors.New("the keeper of the network does not answer")

// end has the keeper take the instance off the network, and waits until it has
// ended.
func (p *keeper) end() error {
	err := p.ask(endKeeping)
	p.leave()
	if p.gone == nil {
		return err
	}
	select {
	case <-p.gone:
	case <-time.After(closeGrace):
		err = errors.Join(err, fmt.Errorf("%w: process %d does not end", errKeeper, p.pid))
	}
	return err
}

// leave lets go of the keeper, which goes on if somebody else holds it. One that
// was told nothing ends and changes nothing.
func (p *keeper) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	_ = p.link.Close()
	if p.fd != nil {
		_ = p.fd.Close()
	}
}

// lost says why the keeper has ended; empty: it has not.
func (p *keeper) lost() string {
	if p.gone == nil { // somebody else's child
		return pidfdLost(p.fd)
	}
	select {
	case <-p.gone:
		return p.how
	default:
		return ""
	}
}

// pidfdLost looks whether a process that is not our child has ended.
func pidfdLost(f *os.File) (why string) {
	if f == nil {
		return ""
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return ""
	}
	_ = rc.Control(func(fd uintptr) { // a pidfd is readable when its process has ended
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err == nil && n > 0 {
			why = "ended"
		}
	})
	return why
}

// hand duplicates what another owner needs of the keeper.
func (p *keeper) hand() ([]*os.File, error) {
	if p.fd == nil {
		return nil, fmt.Errorf("%w: the kernel has no pidfd of it", errKeeper)
	}
	link, err := p.link.File()
	if err != nil {
		return nil, err
	}
	fd, err := duplicate(p.fd)
	if err != nil {
		link.Close()
		return nil, err
	}
	return []*os.File{link, fd}, nil
}

// inheritKeeper goes on with another owner's keeper; it takes over files.
func inheritKeeper(pid int, files []*os.File, log *slog.Logger) (*keeper, error) {
	link, err := unixConn(files[0])
	_ = files[0].Close() // link is a copy
	if err != nil {
		_ = files[1].Close()
		return nil, err
	}
	return &keeper{pid: pid, fd: files[1], link: link, log: log}, nil
}
