package enter

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// Where the kernel's structures have what is compared (stat(2), statfs(2)).
const (
	statSize, statInode, statMode, statDevice = 144, 8, 24, 40
	statfsSize, statfsType                    = 120, 0
	procRootInode                             = 1
)

// all compares all bits of a word.
const all = 1<<64 - 1

// labels sets the security label of the next execve, through the very root of
// the container's /proc and nothing that is mounted on it.
func (e *enterer) labels() {
	p := e.Process
	if p.AppArmor == "" && p.SELinux == "" {
		return
	}
	proc, fs, st := e.Space(8), e.Space(statfsSize), e.Space(statSize)
	e.Call("open /proc", unix.SYS_OPEN, uint64(e.String("/proc")), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).Store(proc)
	e.CallOn("statfs /proc", unix.SYS_FSTATFS, proc, uint64(fs))
	e.Compare("the container's /proc is not a procfs", fs+statfsType, all, unix.PROC_SUPER_MAGIC, unix.EINVAL)
	e.CallOn("stat /proc", unix.SYS_FSTAT, proc, uint64(st))
	e.Compare("the container's /proc is not the root of a procfs", st+statInode, all, procRootInode, unix.EINVAL)
	if p.AppArmor != "" {
		var older, done steps.Label
		e.attr(proc, "process.apparmorProfile", "thread-self/attr/apparmor/exec", "exec "+p.AppArmor, &older)
		e.Set(e.Space(8), 0).Then(&done)
		e.Here(&older) // before Linux 5.8
		e.attr(proc, "process.apparmorProfile", "thread-self/attr/exec", "exec "+p.AppArmor, nil)
		e.Here(&done)
	}
	if p.SELinux != "" {
		e.attr(proc, "process.selinuxLabel", "thread-self/attr/exec", p.SELinux, nil)
	}
}

// attr writes one file; without it, it goes to missing.
func (e *enterer) attr(proc steps.Ref, what, name, value string, missing *steps.Label) {
	how := binary.LittleEndian.AppendUint64(nil, unix.O_WRONLY|unix.O_CLOEXEC)
	how = binary.LittleEndian.AppendUint64(how, 0)
	how = binary.LittleEndian.AppendUint64(how, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_MAGICLINKS)
	fd := e.Space(8)
	open := e.CallOn(what, unix.SYS_OPENAT2, proc, uint64(e.String(name)), uint64(e.Bytes(how)), uint64(len(how))).Store(fd)
	if missing != nil {
		open.Else(missing)
	}
	e.CallOn(what, unix.SYS_WRITE, fd, uint64(e.String(value)), uint64(len(value)))
}
