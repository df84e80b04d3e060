package probe

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneYield is in assembly.
//
//go:noescape
func cloneYield(flags, stack uintptr, tid, gate *uint32, yields int) int

const (
	threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD |
		unix.CLONE_SYSVSEM | unix.CLONE_CHILD_CLEARTID
	threadStack = 16 << 10
	gateOffset  = 1 << 10
	readyOffset = 64 // the assembly knows it, too
)

// threads are stacks for threads that yield, and the words that they are told of,
// and tell, when to begin and end.
type threads struct {
	mem   []byte // stacks, then a page of words
	count int
}

func newThreads(count int) (*threads, error) {
	mem, err := unix.Mmap(-1, 0, count*threadStack+os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &threads{mem, count}, nil
}

func (t *threads) close() { _ = unix.Munmap(t.mem) }

// gate is the word that threads wait for: 1 to yield, 2 to end. Behind it is ready.
func (t *threads) gate() *uint32 {
	// SAFETY: inside mem; the page of words has room behind the threads' own.
	return (*uint32)(unsafe.Pointer(&t.mem[t.count*threadStack+gateOffset]))
}

// ready is how many have yielded.
func (t *threads) ready() *uint32 {
	// SAFETY: as in gate.
	return (*uint32)(unsafe.Pointer(&t.mem[t.count*threadStack+gateOffset+readyOffset]))
}

// reset closes the gate. No thread may live.
func (t *threads) reset() { *t.gate(), *t.ready() = 0, 0 }

// word is the i-th thread's number while it lives, then 0.
func (t *threads) word(i int) *uint32 {
	// SAFETY: inside mem, which is mapped until close; i < count, and a page has
	// room for that many words.
	return (*uint32)(unsafe.Pointer(&t.mem[t.count*threadStack+4*i]))
}

// start makes the i-th thread. It ends at once, or, when it has a gate, waits for
// that, yields, adds one to ready, and waits for its end.
//
// Preconditions: the calling thread is locked and has all signals blocked, for
// the new one has no stack that Go's handlers could run on.
func (t *threads) start(i int, gate *uint32, yields int) error {
	*t.word(i) = 1
	// SAFETY: the address is used by the child only, as its stack, inside mem.
	top := uintptr(unsafe.Pointer(&t.mem[0])) + uintptr((i+1)*threadStack)
	if r := cloneYield(threadFlags, top, t.word(i), gate, yields); r < 0 {
		return os.NewSyscallError("clone", syscall.Errno(-r))
	}
	return nil
}

// join waits for the i-th thread's end.
func (t *threads) join(i int) error {
	w := t.word(i)
	for {
		v := loadWord(w)
		if v == 0 {
			return nil
		}
		if e := futexWait(w, v); e != 0 && e != syscall.EAGAIN && e != syscall.EINTR {
			return os.NewSyscallError("futex", e)
		}
	}
}

// blockSignals blocks all signals of this thread, and returns how to undo it.
func blockSignals() (func(), error) {
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return nil, fmt.Errorf("block signals: %w", err)
	}
	return func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }, nil
}
