package spawn

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These three bracket a fork in package syscall. The Go runtime keeps their
// names for programs that fork by hand; there is no other way for a child of a
// threaded process to join a user namespace without cgo.
//
//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// Kinds of a report, beside the index of an operation that failed.
const (
	isPID       = -1
	cloneFailed = -2
)

// report is what the children write into the pipe: 8 bytes, in one write.
type report struct{ kind, value int32 }

// op is one system call.
type op struct {
	nr  uintptr
	arg [5]uintptr
}

// builder lists the system calls of the two children, in ordinary Go, and
// keeps alive what their arguments point to.
type builder struct {
	ops    []op
	what   []string
	bytes  [][]byte
	tables [][]uintptr
}

func (b *builder) op(what string, nr uintptr, args ...uintptr) {
	o := op{nr: nr}
	copy(o.arg[:], args)
	b.ops, b.what = append(b.ops, o), append(b.what, what)
}

// str returns the address of s as a C string.
func (b *builder) str(s string) uintptr {
	p := append([]byte(s), 0)
	b.bytes = append(b.bytes, p)
	// SAFETY: used by a system call while b.bytes holds p; the heap does not move.
	return uintptr(unsafe.Pointer(&p[0]))
}

// table returns the address of a NULL-terminated table of C strings.
func (b *builder) table(ss []string) uintptr {
	t := make([]uintptr, 0, len(ss)+1)
	for _, s := range ss {
		t = append(t, b.str(s))
	}
	t = append(t, 0)
	b.tables = append(b.tables, t)
	// SAFETY: as in str; b.tables holds t.
	return uintptr(unsafe.Pointer(&t[0]))
}

// forkJoin forks; the child runs ops up to second, clones a sibling with flags
// and ends; the sibling runs the rest, the last of which executes a program.
// It returns the first child's process ID.
//
// Preconditions: the caller holds syscall.ForkLock and is locked to its thread;
// everything that ops point to stays reachable; pipe is close-on-exec.
//
// After the clone there is one thread, and any lock of the Go runtime may be
// held for good: nothing below may allocate, grow the stack or call anything
// but RawSyscall6.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkJoin(ops []op, second int, flags uintptr, pipe int) (pid int, errno syscall.Errno) {
	var (
		r1  uintptr
		e   syscall.Errno
		rep report
	)
	runtimeBeforeFork()
	r1, _, e = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 || r1 != 0 {
		runtimeAfterFork()
		return int(r1), e
	}
	runtimeAfterForkInChild()
	for i := range ops {
		if i == second {
			r1, _, e = syscall.RawSyscall6(syscall.SYS_CLONE, unix.CLONE_PARENT|uintptr(syscall.SIGCHLD)|flags, 0, 0, 0, 0, 0)
			if e != 0 {
				rep = report{cloneFailed, int32(e)}
				break
			}
			if r1 != 0 {
				rep = report{isPID, int32(r1)}
				break
			}
		}
		o := &ops[i]
		_, _, e = syscall.RawSyscall6(o.nr, o.arg[0], o.arg[1], o.arg[2], o.arg[3], o.arg[4], 0)
		if e != 0 {
			rep = report{int32(i), int32(e)}
			break
		}
	}
	// SAFETY: rep lives on this stack, which nobody moves any more.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_WRITE, uintptr(pipe), uintptr(unsafe.Pointer(&rep)), unsafe.Sizeof(rep), 0, 0, 0)
	for {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, 127, 0, 0, 0, 0, 0)
	}
}
