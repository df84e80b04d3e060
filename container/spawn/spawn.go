package spawn

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Request is a program to start.
type Request struct {
	Exe   *os.File // the program
	Args  []string
	Env   []string
	Files []*os.File // descriptors 0, 1, 2, ... of the program

	Flags    uintptr // CLONE_NEW* of namespaces to make
	UIDs     []syscall.SysProcIDMap
	GIDs     []syscall.SysProcIDMap
	Cgroup   *os.File // version 2 group to be born in; may be nil
	JoinPID  *os.File // PID namespace to be born in; may be nil
	NoGroups bool     // setgroups(2) is denied in the user namespace
	AsIs     bool     // do not become root of the new user namespace
}

// beyond is a number that connecting the descriptors does not reach: package
// syscall moves those that are in the way, and its pipe, to numbers above all
// of them, one after the other.
func beyond(files []*os.File) int {
	top := len(files)
	for _, f := range files {
		top = max(top, int(f.Fd())+1)
	}
	return top + len(files) + 2
}

// Start clones and executes in one step and returns the child's process ID.
func Start(r *Request) (int, error) {
	attr := &syscall.ProcAttr{Env: r.Env, Sys: &syscall.SysProcAttr{
		Cloneflags: r.Flags, UidMappings: r.UIDs, GidMappings: r.GIDs, GidMappingsEnableSetgroups: !r.NoGroups,
	}}
	for _, f := range r.Files {
		attr.Files = append(attr.Files, f.Fd())
	}
	if len(r.UIDs) > 0 && !r.AsIs {
		// The host's IDs need not exist in there; without this the program
		// would start as nobody and lose its capabilities.
		attr.Sys.Credential = &syscall.Credential{NoSetGroups: r.NoGroups}
	}
	if r.Cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(r.Cgroup.Fd())
	}
	exe, err := unix.FcntlInt(r.Exe.Fd(), unix.F_DUPFD_CLOEXEC, beyond(r.Files))
	if err != nil {
		return 0, os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(exe)
	path := "/proc/self/fd/" + strconv.Itoa(exe)
	defer runtime.KeepAlive(r)
	if r.JoinPID == nil {
		return syscall.ForkExec(path, r.Args, attr)
	}
	type result struct {
		pid int
		err error
	}
	done := make(chan result)
	go func() {
		// The thread's children belong elsewhere from now on, so it must not
		// be used again: it ends with this goroutine, which never unlocks it.
		runtime.LockOSThread()
		if err := unix.Setns(int(r.JoinPID.Fd()), unix.CLONE_NEWPID); err != nil {
			done <- result{0, fmt.Errorf("join the pid namespace: %w", err)}
			return
		}
		pid, err := syscall.ForkExec(path, r.Args, attr)
		done <- result{pid, err}
	}()
	res := <-done
	return res.pid, res.err
}
