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
//
// Probes make all their system calls by them, in the parent, too. Of a call that
// Go knows of its runtime thinks that it may last: a thread of its own looks every
// 20 µs whether it does, and gives the processor away when it has, which is many
// times the work of a call, and more in one instance than in another.

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

// rawPwrite is pwrite(2) of b.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawPwrite(fd int, b []byte, at int64) (int, syscall.Errno) {
	// SAFETY: as in rawRead.
	n, _, e := syscall.RawSyscall6(syscall.SYS_PWRITE64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(at), 0, 0)
	return int(n), e
}

// rawPread is pread(2) into b.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawPread(fd int, b []byte, at int64) (int, syscall.Errno) {
	// SAFETY: as in rawRead.
	n, _, e := syscall.RawSyscall6(syscall.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(at), 0, 0)
	return int(n), e
}

// rawSync is fsync(2), or fdatasync(2).
//
//go:nosplit
//go:norace
func rawSync(call uintptr, fd int) syscall.Errno {
	_, _, e := syscall.RawSyscall(call, uintptr(fd), 0, 0)
	return e
}

// rawCreate is creat(2) with a descriptor that is read, too.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawCreate(path cString) (int, syscall.Errno) {
	// SAFETY: path ends with a zero and stays reachable.
	fd, _, e := syscall.RawSyscall(syscall.SYS_OPEN, uintptr(unsafe.Pointer(&path[0])), syscall.O_RDWR|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC, 0o666)
	return int(fd), e
}

// rawStat is stat(2).
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawStat(path cString) syscall.Errno {
	var st syscall.Stat_t
	// SAFETY: as in rawCreate; st has the kernel's size.
	_, _, e := syscall.RawSyscall(syscall.SYS_STAT, uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(&st)), 0)
	return e
}

// rawRename is rename(2).
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawRename(from, to cString) syscall.Errno {
	// SAFETY: as in rawCreate.
	_, _, e := syscall.RawSyscall(syscall.SYS_RENAME, uintptr(unsafe.Pointer(&from[0])), uintptr(unsafe.Pointer(&to[0])), 0)
	return e
}

// rawUnlink is unlink(2).
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawUnlink(path cString) syscall.Errno {
	// SAFETY: as in rawCreate.
	_, _, e := syscall.RawSyscall(syscall.SYS_UNLINK, uintptr(unsafe.Pointer(&path[0])), 0, 0)
	return e
}

// rawWait waits for a child's end.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawWait(pid int) (status int32, e syscall.Errno) {
	// SAFETY: the kernel writes the four bytes of status.
	_, _, e = syscall.RawSyscall6(syscall.SYS_WAIT4, uintptr(pid), uintptr(unsafe.Pointer(&status)), 0, 0, 0, 0)
	return status, e
}

// rawSwitches is how often the kernel took the processor from this thread, or was
// given it.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawSwitches() uint32 {
	var ru syscall.Rusage
	// SAFETY: ru has the kernel's size.
	_, _, _ = syscall.RawSyscall(syscall.SYS_GETRUSAGE, unix.RUSAGE_THREAD, uintptr(unsafe.Pointer(&ru)), 0)
	return uint32(ru.Nvcsw + ru.Nivcsw)
}

// rawSocket is a TCP socket.
//
//go:nosplit
//go:norace
func rawSocket() (int, syscall.Errno) {
	fd, _, e := syscall.RawSyscall(syscall.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	return int(fd), e
}

// rawConnect is connect(2).
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawConnect(fd int, addr *unix.RawSockaddrInet4) syscall.Errno {
	// SAFETY: addr has the kernel's form and size, and stays reachable.
	_, _, e := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(addr)), unsafe.Sizeof(*addr))
	return e
}

// rawNoLinger has a connection be reset when it is closed.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawNoLinger(fd int) {
	l := unix.Linger{Onoff: 1}
	// SAFETY: l has the kernel's form and size.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
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

// futexWake wakes so many that wait for w.
//
//go:nosplit
//go:norace
//go:nocheckptr
func futexWake(w *uint32, many int) {
	// SAFETY: as in futexWait.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(w)), 1, uintptr(many), 0, 0, 0)
}

// sharedWords are words that forked children share with us.
type sharedWords struct {
	mem     []byte
	a, b, c *uint32
}

func newSharedWords() (*sharedWords, error) {
	mem, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	// SAFETY: all are inside the mapping, aligned, on cache lines of their own.
	return &sharedWords{mem, (*uint32)(unsafe.Pointer(&mem[0])), (*uint32)(unsafe.Pointer(&mem[64])), (*uint32)(unsafe.Pointer(&mem[128]))}, nil
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

// tell sets the word and wakes the one who waits for it.
//
//go:nosplit
//go:norace
func tell(w *uint32, v uint32) { tellAll(w, v, 1) }

// tellAll sets the word and wakes so many.
//
//go:nosplit
//go:norace
func tellAll(w *uint32, v uint32, many int) {
	atomic.StoreUint32(w, v)
	futexWake(w, many)
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
