package probe

import (
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The functions here run in children of raw forks, too: they may not allocate,
// grow the stack, or call anything but RawSyscall. Go's signals (preemption)
// are sent to threads by their numbers and so never reach such a child.

// rawFork is fork(2). In the child, which has this thread alone, it returns 0.
//
//go:nosplit
//go:norace
func rawFork() (int, syscall.Errno) {
	pid, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	return int(pid), e
}

//go:nosplit
//go:norace
func rawExit(code uintptr) {
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, code, 0, 0)
	}
}

// cString has a terminating zero.
type cString []byte

// rawExec replaces the program; it returns only when that fails.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawExec(path cString, argv, envp *[2]*byte) {
	// SAFETY: three pointers to memory that lives as long as the probe; the
	// kernel reads it before this process's memory goes.
	_, _, _ = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(argv)), uintptr(unsafe.Pointer(envp)))
}

// rawRead is read(2) into b.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawRead(fd int, b []byte) (int, syscall.Errno) {
	// SAFETY: the kernel writes at most len(b) bytes to b, which stays reachable.
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), e
}

// rawWrite is write(2) of b.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawWrite(fd int, b []byte) (int, syscall.Errno) {
	// SAFETY: as in rawRead.
	n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), e
}

// rawEcho sends back what comes, in messages of len(b), until the end.
//
//go:nosplit
//go:norace
func rawEcho(in, out int, b []byte) {
	for {
		for have := 0; have < len(b); {
			n, e := rawRead(in, b[have:])
			if e == syscall.EINTR {
				continue
			}
			if e != 0 || n <= 0 {
				return
			}
			have += n
		}
		if n, e := rawWrite(out, b); e != 0 || n != len(b) {
			return
		}
	}
}

//go:nosplit
//go:norace
func loadWord(w *uint32) uint32 { return atomic.LoadUint32(w) }

// futexWait waits while *w is v. Not private: w may be shared with a child.
//
//go:nosplit
//go:norace
//go:nocheckptr
func futexWait(w *uint32, v uint32) syscall.Errno {
	// SAFETY: w is in mapped memory for the call.
	_, _, e := syscall.RawSyscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(w)), 0, uintptr(v), 0, 0, 0)
	return e
}

// futexWake wakes one that waits for w.
//
//go:nosplit
//go:norace
//go:nocheckptr
func futexWake(w *uint32) {
	// SAFETY: as in futexWait.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(w)), 1, 1, 0, 0, 0)
}

// sharedWords are two words that a forked child shares with us.
type sharedWords struct {
	mem  []byte
	a, b *uint32
}

func newSharedWords() (*sharedWords, error) {
	mem, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	// SAFETY: both are inside the mapping, aligned, on cache lines of their own.
	return &sharedWords{mem, (*uint32)(unsafe.Pointer(&mem[0])), (*uint32)(unsafe.Pointer(&mem[64]))}, nil
}

// await waits until the word is v.
//
//go:nosplit
//go:norace
func await(w *uint32, v uint32) {
	for {
		now := loadWord(w)
		if now == v {
			return
		}
		_ = futexWait(w, now)
	}
}

// tell sets the word and wakes who waits for it.
//
//go:nosplit
//go:norace
func tell(w *uint32, v uint32) {
	atomic.StoreUint32(w, v)
	futexWake(w)
}

// defaultAction has the kernel do with a signal what it does to a program that
// never heard of it; package os/signal's Reset gives it to Go's runtime.
func defaultAction(sig unix.Signal) error {
	if sig == unix.SIGKILL || sig == unix.SIGSTOP {
		return nil // cannot be anything else
	}
	var act struct{ handler, flags, restorer, mask uint64 } // struct sigaction of x86-64; SIG_DFL is 0
	// SAFETY: the kernel reads act, which has the size of its own, and is given
	// no place for the old one.
	if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0); e != 0 {
		return os.NewSyscallError("rt_sigaction", e)
	}
	return nil
}
