package enter

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

const devptsMagic = 0x1cd1 // DEVPTS_SUPER_MAGIC

// terminal makes a terminal in the container's devpts, sends its master away
// and takes the other end as standard streams.
func (e *enterer) terminal() {
	const ptmx = "/dev/pts/ptmx"
	master, peer, fs, st := e.Space(8), e.Space(8), e.Space(statfsSize), e.Space(statSize)
	e.Call("terminal: the container needs a devpts: open "+ptmx, unix.SYS_OPEN, uint64(e.String(ptmx)), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC).Store(master)
	e.CallOn("terminal: statfs "+ptmx, unix.SYS_FSTATFS, master, uint64(fs))
	e.Compare("terminal: "+ptmx+" is not a devpts's", fs+statfsType, all, devptsMagic, unix.EINVAL)
	e.CallOn("terminal: stat "+ptmx, unix.SYS_FSTAT, master, uint64(st))
	e.Compare("terminal: "+ptmx+" is another device", st+statDevice, all, unix.Mkdev(5, 2), unix.EINVAL)
	e.CallOn("terminal: unlock", unix.SYS_IOCTL, master, unix.TIOCSPTLCK, uint64(e.Space(8)))
	e.CallOn("terminal: open the peer", unix.SYS_IOCTL, master, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC).Store(peer)
	p := e.Process
	if p.Columns|p.Rows != 0 {
		ws := binary.LittleEndian.AppendUint16(nil, uint16(p.Rows))
		ws = binary.LittleEndian.AppendUint16(ws, uint16(p.Columns))
		e.CallOn("process.consoleSize", unix.SYS_IOCTL, peer, unix.TIOCSWINSZ, uint64(e.Bytes(append(ws, 0, 0, 0, 0))))
	}
	// The name is for show: whoever receives the descriptor uses that.
	text := []byte(ptmx)
	e.send("console socket", e.Console, master, e.Bytes(text), e.word(uint64(len(text))))
	for fd := range uint64(3) {
		e.CallOn("dup3", unix.SYS_DUP3, peer, fd, 0)
	}
	e.Call("take the terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	e.Call("own the terminal", unix.SYS_FCHOWN, 0, uint64(p.UID), 1<<32-1)
}

// word is 64 bits with a value.
func (e *enterer) word(n uint64) steps.Ref {
	return e.Bytes(binary.LittleEndian.AppendUint64(nil, n))
}

// send sends a descriptor, with text of the length at size, over a socket
// (struct msghdr, iovec and cmsghdr; unix(7), SCM_RIGHTS).
func (e *enterer) send(what string, socket int, fd, text, size steps.Ref) {
	const (
		iovSize, iovSizeAt            = 16, 8
		controlSize, controlFD, fdLen = 24, 16, 20
		msgSize                       = 56
	)
	le := binary.LittleEndian
	iov := e.Bytes(le.AppendUint64(le.AppendUint64(make([]byte, 0, iovSize), uint64(text)), 0))
	control := le.AppendUint64(make([]byte, 0, controlSize), fdLen)
	control = le.AppendUint32(control, unix.SOL_SOCKET)
	control = le.AppendUint32(control, unix.SCM_RIGHTS)
	ctl := e.Bytes(le.AppendUint64(control, 0))
	msg := make([]byte, 0, msgSize)
	for _, n := range []uint64{0, 0, uint64(iov), 1, uint64(ctl), controlSize, 0} {
		msg = le.AppendUint64(msg, n)
	}
	e.Copy(ctl+controlFD, fd)
	e.Copy(iov+iovSizeAt, size)
	e.Call(what, unix.SYS_SENDMSG, uint64(socket), uint64(e.Bytes(msg)), unix.MSG_NOSIGNAL)
}

// maxState bounds what the seccomp agent is told.
const maxState = 64 << 10

// readState reads what goes with the listener, which is known when the process
// ID is.
func (e *enterer) readState() (text, size steps.Ref) {
	text, size = e.Space(maxState), e.Space(8)
	e.Call("what the seccomp agent is told", unix.SYS_READ, uint64(e.State), uint64(text), maxState).Store(size)
	return text, size
}
