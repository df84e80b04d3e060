package spawn

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// JoinRequest is a program to start in a user namespace that exists.
type JoinRequest struct {
	Request
	UserNS *os.File
}

// Join starts the program. The other namespaces of the request are made, or
// joined, by the root of that user namespace; of the identity mappings nothing
// is used.
func Join(r *JoinRequest) (int, error) {
	var p steps.Program
	files := append([]*os.File{}, r.Files...)
	give := func(f *os.File) uint64 {
		files = append(files, f)
		return uint64(len(files) - 1)
	}
	p.Call("PR_SET_DUMPABLE", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	if r.Cgroup != nil {
		f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d/cgroup.procs", r.Cgroup.Fd()), os.O_WRONLY, 0)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		p.Call("enter the cgroup", unix.SYS_WRITE, give(f), uint64(p.String("0")), 1)
	}
	p.Call("join the user namespace", unix.SYS_SETNS, give(r.UserNS), unix.CLONE_NEWUSER)
	if r.JoinPID != nil {
		p.Call("join the pid namespace", unix.SYS_SETNS, give(r.JoinPID), unix.CLONE_NEWPID)
	}
	// As root of that namespace, and with none of the caller's groups.
	if !r.NoGroups {
		p.Call("setgroups", unix.SYS_SETGROUPS, 0, 0)
	}
	p.Call("setresgid", unix.SYS_SETRESGID, 0, 0, 0)
	p.Call("setresuid", unix.SYS_SETRESUID, 0, 0, 0)
	p.Fork("clone in the namespaces", unix.CLONE_PARENT|uint64(unix.SIGCHLD)|uint64(r.Flags))
	exe := give(r.Exe)
	p.Call("close_range", unix.SYS_CLOSE_RANGE, uint64(len(r.Files)), 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
	p.Call("execute the runtime's own binary", unix.SYS_EXECVEAT, exe, uint64(p.String("")), uint64(p.Strings(r.Args)), uint64(p.Strings(r.Env)), unix.AT_EMPTY_PATH)
	run, err := p.Start(files)
	if err != nil {
		return 0, err
	}
	defer run.Close()
	pid := 0
	for {
		child, nerr := run.Next()
		if errors.Is(nerr, io.EOF) {
			break
		}
		pid, err = max(pid, child), errors.Join(err, nerr)
	}
	reap(run.PID)
	if err == nil && pid == 0 {
		err = errors.New("the process that joins the namespaces died")
	}
	if err != nil && pid > 0 {
		reap(pid)
	}
	return pid, err
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}
