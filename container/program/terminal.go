package program

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

const devptsMagic = 0x1cd1 // DEVPTS_SUPER_MAGIC

// terminal makes a terminal in the container's devpts, sends its master away
// and takes the other end as standard streams.
func (b *builder) terminal(p *plan.Process, root steps.Ref, console int) (peer steps.Ref) {
	const ptmx = "/dev/pts/ptmx"
	peer = b.Space(8)
	master, fs, st := b.Space(8), b.Space(statfsSize), b.Space(statSize)
	b.about = "terminal: the container needs a devpts at /dev/pts: "
	b.open(root, ptmx, unix.O_RDWR|unix.O_NOCTTY, inRoot, master, nil)
	b.about = ""
	b.CallOn("terminal: statfs "+ptmx, unix.SYS_FSTATFS, master, uint64(fs))
	b.Compare("terminal: "+ptmx+" is not a devpts's", fs+statfsType, all, devptsMagic, unix.EINVAL)
	b.CallOn("terminal: stat "+ptmx, unix.SYS_FSTAT, master, uint64(st))
	b.Compare("terminal: "+ptmx+" is another device", st+statDevice, all, unix.Mkdev(5, 2), unix.EINVAL)
	b.CallOn("terminal: unlock", unix.SYS_IOCTL, master, unix.TIOCSPTLCK, uint64(b.Space(8)))
	b.CallOn("terminal: open the peer", unix.SYS_IOCTL, master, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC).Store(peer)
	if p.Columns|p.Rows != 0 {
		ws := binary.LittleEndian.AppendUint16(nil, uint16(p.Rows))
		ws = binary.LittleEndian.AppendUint16(ws, uint16(p.Columns))
		b.CallOn("process.consoleSize", unix.SYS_IOCTL, peer, unix.TIOCSWINSZ, uint64(b.Bytes(append(ws, 0, 0, 0, 0))))
	}
	// The name is for show: whoever receives the descriptor uses that.
	text := []byte(ptmx)
	b.send("console socket", console, master, b.Bytes(text), b.Word(uint64(len(text))))
	for fd := range uint64(3) {
		b.CallOn("dup3", unix.SYS_DUP3, peer, fd, 0)
	}
	b.Call("take the terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	b.Call("own the terminal", unix.SYS_FCHOWN, 0, uint64(p.UID), 1<<32-1)
	return peer
}

// bindConsole mounts the terminal on /dev/console. A link the image may have
// there is replaced by nothing: it is refused, not followed.
func (b *builder) bindConsole(root, peer steps.Ref) {
	var folder, file, fatal steps.Label
	b.about = "/dev/console: "
	dir, target, tree := b.Space(8), b.Space(8), b.Space(8)
	b.mkdirAll(root, "/dev", dir)
	b.create(dir, "console", 0o620, &fatal)
	b.open(dir, "console", unix.O_PATH, beneath, target, nil)
	b.isDir(b.stat(target), &folder)
	b.Go(&file)
	b.Here(&folder)
	b.Fail(b.about+"the image has a directory there", unix.EISDIR)
	b.Here(&fatal)
	b.FailAgain(b.about + "create")
	b.Here(&file)
	b.on(peer, "open_tree", unix.SYS_OPEN_TREE, b.text(""), unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Store(tree)
	b.attach(tree, target)
	b.about = ""
}

// sendTo sends a descriptor alone.
func (b *builder) sendTo(what string, socket int, fd steps.Ref) {
	text := []byte("fd")
	b.send(b.about+what, socket, fd, b.Bytes(text), b.Word(uint64(len(text))))
}

// send sends a descriptor, with text of the length at size, over a socket
// (struct msghdr, iovec and cmsghdr; unix(7), SCM_RIGHTS).
func (b *builder) send(what string, socket int, fd, text, size steps.Ref) {
	const (
		iovSize, iovSizeAt            = 16, 8
		controlSize, controlFD, fdLen = 24, 16, 20
		msgSize                       = 56
	)
	le := binary.LittleEndian
	iov := b.Bytes(le.AppendUint64(le.AppendUint64(make([]byte, 0, iovSize), uint64(text)), 0))
	control := le.AppendUint64(make([]byte, 0, controlSize), fdLen)
	control = le.AppendUint32(control, unix.SOL_SOCKET)
	control = le.AppendUint32(control, unix.SCM_RIGHTS)
	ctl := b.Bytes(le.AppendUint64(control, 0))
	msg := make([]byte, 0, msgSize)
	for _, n := range []uint64{0, 0, uint64(iov), 1, uint64(ctl), controlSize, 0} {
		msg = le.AppendUint64(msg, n)
	}
	b.Copy(ctl+controlFD, fd)
	b.Copy(iov+iovSizeAt, size)
	b.Call(what, unix.SYS_SENDMSG, uint64(socket), uint64(b.Bytes(msg)), unix.MSG_NOSIGNAL)
}
