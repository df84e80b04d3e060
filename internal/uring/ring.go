package uring

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrUnavailable is wrapped by New where there is no io_uring to be had: the
// kernel is older than 5.11, built without, or forbids it (the sysctl
// kernel.io_uring_disabled, a seccomp filter).
var ErrUnavailable = errors.New("io_uring is not available")

// MaxEntries is the largest ring that New makes.
const MaxEntries = 4096

// briefBytes is how much may move while the Go scheduler does not know that the
// thread is in a system call: so much is copied in less than a millisecond, a
// tenth of what a goroutine may run anyway.
const briefBytes = 4 << 20

// Ring is one io_uring. Its methods are for one goroutine at a time.
type Ring struct {
	fd      int
	maps    [][]byte // what Close unmaps
	sq      rings
	cq      rings
	cqFlags *atomic.Uint32 // ours to write
	sqes    []sqe
	cqes    []cqe
	tail    uint32 // entries prepared, published by Submit
	pending uint32 // prepared, not yet given to the kernel
	bytes   int    // that the pending ones move
}

// rings are the shared words of one of the two rings.
type rings struct {
	head, tail *atomic.Uint32
	mask       uint32
}

// Completion is the answer to one request.
type Completion struct {
	Data   uint64 // what the request was given
	Result int32  // as the system call's: a count, or a negative errno
}

// Err returns the failure that the completion reports, an unix.Errno, or nil.
func (c Completion) Err() error {
	if c.Result < 0 {
		return unix.Errno(-c.Result)
	}
	return nil
}

// New makes a ring for up to entries requests, a power of two, in flight at
// once. It does nothing before RegisterFiles. Errors wrap ErrUnavailable where a caller should go on without.
func New(entries uint32) (*Ring, error) {
	if entries == 0 || entries > MaxEntries || entries&(entries-1) != 0 {
		return nil, fmt.Errorf("io_uring of %d entries: want a power of two up to %d", entries, MaxEntries)
	}
	p := params{flags: setupDisabled}
	fd, err := setup(entries, &p)
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, os.NewSyscallError("io_uring_setup", err))
	case err != nil:
		return nil, os.NewSyscallError("io_uring_setup", err)
	}
	r := &Ring{fd: fd}
	if p.features&needed != needed {
		return nil, errors.Join(fmt.Errorf("%w: the kernel's has features %#x, of which %#x are needed (Linux 5.11)", ErrUnavailable, p.features, needed), r.Close())
	}
	if err := r.mapRings(&p); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// RegisterFiles makes fds the fixed files 0, 1, ..., which spares a look-up for
// each request, and opens the ring, once. From then on it does nothing but read,
// write and sync them, whoever writes into it: a ring is a way around filters of
// system calls. It keeps the files open until Close.
func (r *Ring) RegisterFiles(fds []int) error {
	list := make([]int32, 0, len(fds))
	for _, fd := range fds {
		list = append(list, int32(fd))
	}
	err := registerFiles(r.fd, list)
	if err == nil {
		err = restrict(r.fd)
	}
	if err == nil {
		err = enable(r.fd)
	}
	return os.NewSyscallError("io_uring_register", err)
}

// Notify makes completions signal the eventfd fd while the ring is not quiet. It
// takes the place of the one before.
func (r *Ring) Notify(fd int) error {
	_ = unregisterEventFD(r.fd) // there may be none
	return os.NewSyscallError("io_uring_register", registerEventFD(r.fd, int32(fd)))
}

// Quiet turns the signals of Notify off, or on again: then look once more for
// what completed before.
func (r *Ring) Quiet(on bool) {
	if on {
		r.cqFlags.Store(cqEventFDDisabled)
	} else {
		r.cqFlags.Store(0)
	}
}

// next returns an empty submission, or nil when the ring is full.
func (r *Ring) next(op uint8, data uint64) *sqe {
	if r.tail-r.sq.head.Load() > r.sq.mask {
		return nil
	}
	e := &r.sqes[r.tail&r.sq.mask]
	*e = sqe{opcode: op, userData: data}
	r.tail++
	r.pending++
	return e
}

// Sync prepares an fdatasync of a fixed file. It reports whether there was
// room. Requests in flight may be overtaken: it covers what has completed.
func (r *Ring) Sync(file int, data uint64) bool {
	e := r.next(opFsync, data)
	if e == nil {
		return false
	}
	e.fd, e.flags, e.rwFlags = int32(file), flagFixedFile, fsyncDatasync
	return true
}

// Submit gives what was prepared to the kernel and returns when at least wait
// requests have completed that Next has not returned yet.
func (r *Ring) Submit(wait uint32) error {
	r.sq.tail.Store(r.tail)
	for {
		if have := r.cq.tail.Load() - r.cq.head.Load(); r.pending == 0 && have >= wait {
			return nil
		}
		n, err := enter(r.fd, r.pending, wait, r.bytes <= briefBytes)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY):
			// Short of memory, or completions not fetched: those come first.
			if r.cq.tail.Load() != r.cq.head.Load() {
				return nil
			}
			continue
		case err != nil:
			return os.NewSyscallError("io_uring_enter", err)
		}
		if r.pending -= n; r.pending == 0 {
			r.bytes = 0
		}
	}
}

// Next takes one completion; ok is false when there is none.
func (r *Ring) Next() (c Completion, ok bool) {
	head := r.cq.head.Load()
	if head == r.cq.tail.Load() {
		return Completion{}, false
	}
	e := &r.cqes[head&r.cq.mask]
	c = Completion{Data: e.userData, Result: e.res}
	r.cq.head.Store(head + 1)
	return c, true
}

// Close gives the ring up. Preconditions: nothing is in flight, or what it
// names stays in place for good.
func (r *Ring) Close() error {
	var errs []error
	for _, m := range r.maps {
		errs = append(errs, unix.Munmap(m))
	}
	r.maps = nil
	return errors.Join(append(errs, unix.Close(r.fd))...)
}
