package spawn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Namespaces is a set to join: FD is a pidfd, or one namespace's descriptor.
type Namespaces struct {
	FD    int
	Flags int // CLONE_NEW*
}

// JoinRequest is a program to start in namespaces that exist.
type JoinRequest struct {
	Request
	Join    []Namespaces // in this order; a user namespace first
	UserNS  bool         // one of them is a user namespace
	Cgroups []*os.File   // cgroup.procs files to enter before
}

// Join starts the program. Flags are namespaces to make once the others are
// joined; of the identity mappings nothing is used.
func Join(r *JoinRequest) (int, error) {
	b := new(builder)
	for _, f := range r.Cgroups {
		b.op("enter the cgroup "+f.Name(), unix.SYS_WRITE, f.Fd(), b.str("0"), 1)
	}
	for _, n := range r.Join {
		b.op("join the container's namespaces", unix.SYS_SETNS, uintptr(n.FD), uintptr(n.Flags))
	}
	if r.UserNS {
		// As root of that namespace, and with none of the caller's groups.
		if !r.NoGroups {
			b.op("setgroups", unix.SYS_SETGROUPS, 0, 0)
		}
		b.op("setresgid", unix.SYS_SETRESGID, 0, 0, 0)
		b.op("setresuid", unix.SYS_SETRESUID, 0, 0, 0)
	}
	second := len(b.ops)
	// Everything moves to where connecting the descriptors will not reach it.
	exe, err := unix.FcntlInt(r.Exe.Fd(), unix.F_DUPFD_CLOEXEC, len(r.Files)+3)
	if err != nil {
		return 0, os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(exe)
	files, err := above(r.Files)
	if err != nil {
		return 0, err
	}
	defer closeAll(files)
	for i, fd := range files {
		b.op("connect descriptors", unix.SYS_DUP3, uintptr(fd), uintptr(i), 0)
	}
	b.op("execute the runtime's own binary", unix.SYS_EXECVEAT, uintptr(exe), b.str(""), b.table(r.Args), b.table(r.Env), unix.AT_EMPTY_PATH)
	pid, err := b.run(second, r.Flags, len(r.Files))
	runtime.KeepAlive(r)
	return pid, err
}

// above duplicates files to numbers beyond those they are to get.
func above(files []*os.File) ([]int, error) {
	var out []int
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, len(files)+3)
		if err != nil {
			closeAll(out)
			return nil, os.NewSyscallError("fcntl", err)
		}
		out = append(out, fd)
	}
	return out, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// run forks, reports and reaps.
func (b *builder) run(second int, flags uintptr, files int) (int, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	// The pipe's ends lie where dup3 may write; it is not a descriptor of the
	// program, so it moves up.
	w, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_DUPFD_CLOEXEC, files+3)
	unix.Close(pipe[1])
	if err != nil {
		unix.Close(pipe[0])
		return 0, os.NewSyscallError("fcntl", err)
	}
	r := os.NewFile(uintptr(pipe[0]), "report")
	defer r.Close()
	runtime.LockOSThread()
	syscall.ForkLock.Lock()
	first, errno := forkJoin(b.ops, second, flags, w)
	syscall.ForkLock.Unlock()
	runtime.UnlockOSThread()
	runtime.KeepAlive(b)
	unix.Close(w)
	if errno != 0 {
		return 0, os.NewSyscallError("clone", errno)
	}
	pid, rerr := b.read(r)
	reap(first)
	if rerr != nil && pid > 0 {
		reap(pid)
	}
	return pid, rerr
}

// read takes what the two children say until both have closed the pipe.
func (b *builder) read(r *os.File) (pid int, err error) {
	var rec [8]byte
	for {
		n, rerr := r.Read(rec[:])
		if n != len(rec) {
			if rerr != nil && pid == 0 && err == nil {
				err = errors.New("the process that joins the namespaces died")
			}
			return pid, err
		}
		kind, v := int32(binary.NativeEndian.Uint32(rec[:])), int32(binary.NativeEndian.Uint32(rec[4:]))
		switch {
		case kind == isPID:
			pid = int(v)
		case kind == cloneFailed:
			err = fmt.Errorf("clone in the namespaces: %w", syscall.Errno(v))
		case kind >= 0 && int(kind) < len(b.ops):
			err = fmt.Errorf("%s: %w", b.what[kind], syscall.Errno(v))
		}
	}
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}
