package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// How forkPlan treats an operation's result.
const (
	optional   = 1 << iota // failure does not matter
	tryNext                // "not there" and "not executable" go on to the next
	ifThere                // "not there", or not of that kind, does not matter
	save                   // keep the result
	useSaved               // the first argument is the result kept
	unlessBorn             // not when the child was born in its cgroup
)

// op is one system call of a plan.
type op struct {
	nr   uintptr
	arg  [5]uintptr
	mode uint8
}

// plan is the list of system calls that turns a fresh child into the program:
// built here in ordinary Go, run by forkPlan where Go cannot run.
type plan struct {
	cgroup *os.File // directory of the group the child is to be in, or nil
	ops    []op
	what   []string // what[i] says what ops[i] does, for messages
	keep   [][]byte
	tables [][]uintptr
}

func (p *plan) add(what string, mode uint8, nr uintptr, args ...uintptr) {
	o := op{nr: nr, mode: mode}
	copy(o.arg[:], args)
	p.ops = append(p.ops, o)
	p.what = append(p.what, what)
}

// str returns s as a C string that lives as long as the plan.
func (p *plan) str(s string) uintptr {
	b := append([]byte(s), 0)
	p.keep = append(p.keep, b)
	return bytesArg(b)
}

// words returns the little-endian encoding of ws as memory.
func (p *plan) words(ws ...uint32) uintptr {
	b := make([]byte, 0, 4*len(ws)+4)
	for _, w := range ws {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	if len(ws) == 0 {
		b = append(b, 0)
	}
	p.keep = append(p.keep, b)
	return bytesArg(b)
}

// table returns a NULL-terminated table of C strings.
func (p *plan) table(ss []string) uintptr {
	t := make([]uintptr, 0, len(ss)+1)
	for _, s := range ss {
		t = append(t, p.str(s))
	}
	t = append(t, 0)
	p.tables = append(p.tables, t)
	return pointersArg(t)
}

// planError is a plan that did not reach its end.
type planError struct {
	op    op
	what  string
	errno syscall.Errno
}

func (e *planError) Error() string { return e.what + ": " + e.errno.Error() }
func (e *planError) Unwrap() error { return e.errno }

// fork runs the plan in a new child and returns the child's pid once the
// program has replaced it. When the plan fails the child is reaped and the
// error is a *planError.
//
// pidNS, when not nil, is the PID namespace the child is born in.
func (p *plan) fork(flags uintptr, pidNS *os.File) (int, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(pipe[0])

	group := -1
	if p.cgroup != nil {
		group = int(p.cgroup.Fd())
	}
	runtime.LockOSThread()
	unlock := true
	if pidNS != nil {
		if err := unix.Setns(int(pidNS.Fd()), unix.CLONE_NEWPID); err != nil {
			runtime.UnlockOSThread()
			unix.Close(pipe[1])
			return 0, os.NewSyscallError("setns", err)
		}
	}
	syscall.ForkLock.Lock()
	pid, errno := forkPlan(flags, group, p.ops, pipe[1])
	syscall.ForkLock.Unlock()
	if pidNS != nil {
		// A thread whose children belong elsewhere must not go back to the
		// scheduler: on failure it stays locked and ends with its goroutine.
		unlock = unix.Setns(int(ownPIDNS.Fd()), unix.CLONE_NEWPID) == nil
	}
	if unlock {
		runtime.UnlockOSThread()
	}
	runtime.KeepAlive(p)
	unix.Close(pipe[1])
	if errno != 0 {
		return 0, os.NewSyscallError("clone", errno)
	}
	f, failed := readFailure(pipe[0])
	if !failed {
		return pid, nil
	}
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			break
		}
	}
	if f.index < 0 || int(f.index) >= len(p.ops) {
		return 0, fmt.Errorf("child failed at operation %d of %d", f.index, len(p.ops))
	}
	return 0, &planError{op: p.ops[f.index], what: p.what[f.index], errno: syscall.Errno(f.errno)}
}
