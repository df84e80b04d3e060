package main

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These three bracket a fork in package syscall; other programs that fork by
// hand link to them too, and the Go runtime keeps their names for that reason.
//
//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// failure is what a child writes into the report pipe when an operation of its
// plan fails: the operation's index and the errno.
type failure struct {
	index int32
	errno int32
}

// bytesArg returns b's address as a system call argument. The caller keeps b
// reachable until the fork is over (plan.keep); Go's heap does not move.
func bytesArg(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	// SAFETY: the number is only ever used by a system call, in this process
	// or in the child's copy of it, while plan.keep holds b.
	return uintptr(unsafe.Pointer(&b[0]))
}

// pointersArg returns the address of a table of C strings.
func pointersArg(p []uintptr) uintptr {
	// SAFETY: as in bytesArg; plan.tables holds p.
	return uintptr(unsafe.Pointer(&p[0]))
}

// cloneArgs is struct clone_args of clone3(2), as long as CLONE_INTO_CGROUP
// needs it.
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// forkPlan clones the process and lets the child run the operations, the last
// of which replaces it by another program. It returns the child's pid. The
// child is born in the cgroup whose directory is group, where the kernel can do
// that (5.7) and the group lets it in; otherwise operations marked unlessBorn
// are run, too.
//
// Preconditions: group is a descriptor or -1; the calling goroutine is locked to its thread if that thread's
// namespaces matter; every slice behind ops' arguments is reachable until
// forkPlan returns; report is the write end of a close-on-exec pipe.
//
// After the clone only this thread exists in the child, and any lock of the Go
// runtime may be held for good, so nothing below may allocate, grow the stack
// or call anything but RawSyscall6.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkPlan(flags uintptr, group int, ops []op, report int) (pid int, errno syscall.Errno) {
	var (
		r1    uintptr
		e     syscall.Errno
		saved uintptr
		fail  failure
		born  = group >= 0
		args  = cloneArgs{flags: uint64(flags) | unix.CLONE_INTO_CGROUP, exitSignal: uint64(syscall.SIGCHLD), cgroup: uint64(group)}
	)
	runtimeBeforeFork()
	if born {
		// SAFETY: args lives on this stack, and the kernel only reads it.
		r1, _, e = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0, 0, 0, 0)
		born = e == 0
	}
	if !born {
		r1, _, e = syscall.RawSyscall6(syscall.SYS_CLONE, flags|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	}
	if e != 0 || r1 != 0 {
		runtimeAfterFork()
		return int(r1), e
	}
	runtimeAfterForkInChild()
run:
	for i := range ops {
		o := &ops[i]
		if born && o.mode&unlessBorn != 0 {
			continue
		}
		a0 := o.arg[0]
		if o.mode&useSaved != 0 {
			a0 = saved
		}
		r1, _, e = syscall.RawSyscall6(o.nr, a0, o.arg[1], o.arg[2], o.arg[3], o.arg[4], 0)
		if e == 0 {
			if o.mode&save != 0 {
				saved = r1
			}
			continue
		}
		switch {
		case o.mode&optional != 0, o.mode&ifThere != 0 && (e == syscall.ENOENT || e == syscall.ENOTDIR):
			continue
		case o.mode&tryNext != 0 && (e == syscall.ENOENT || e == syscall.ENOTDIR || e == syscall.EACCES):
			// A candidate on the search path: remember that one was there
			// but could not be executed.
			if e == syscall.EACCES || fail.errno == 0 {
				fail = failure{index: int32(i), errno: int32(e)}
			}
			continue
		}
		fail = failure{index: int32(i), errno: int32(e)}
		break run
	}
	// SAFETY: fail lives on this stack, which nobody moves any more.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_WRITE, uintptr(report), uintptr(unsafe.Pointer(&fail)), unsafe.Sizeof(fail), 0, 0, 0)
	for {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, 127, 0, 0, 0, 0, 0)
	}
}

// readFailure waits until the child has executed its program (false) or failed
// (true, and how).
func readFailure(fd int) (failure, bool) {
	var f failure
	for {
		// SAFETY: eight bytes of our own, for the duration of the call.
		b := unsafe.Slice((*byte)(unsafe.Pointer(&f)), unsafe.Sizeof(f))
		n, err := syscall.Read(fd, b)
		if err == syscall.EINTR {
			continue
		}
		return f, err == nil && n == len(b)
	}
}

// addEntropy credits p to the kernel's random generator.
func addEntropy(fd int, p []byte) error {
	const rndAddEntropy = 0x40085203 // _IOW('R', 3, int[2])
	// struct rand_pool_info: entropy_count in bits, buf_size in bytes, buf.
	buf := make([]uint32, 2+(len(p)+3)/4)
	buf[0], buf[1] = uint32(len(p)*8), uint32(len(p))
	// SAFETY: the slice views buf's own memory behind the two words.
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&buf[2])), len(p)), p)
	// SAFETY: the kernel reads 8 bytes and then buf_size bytes, all in buf.
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), rndAddEntropy, uintptr(unsafe.Pointer(&buf[0])))
	runtime.KeepAlive(buf)
	if e != 0 {
		return e
	}
	return nil
}
