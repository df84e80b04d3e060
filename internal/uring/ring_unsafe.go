package uring

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/io_uring.h.
const (
	opReadv  = 1
	opWritev = 2
	opFsync  = 3
	opRead   = 22
	opWrite  = 23

	flagFixedFile = 1 << 0
	fsyncDatasync = 1 << 0

	enterGetEvents = 1 << 0

	setupDisabled = 1 << 6

	cmdRegisterFiles     = 2
	cmdUnregisterEventFD = 5
	cmdRegisterEventFD   = 4
	cmdRestrict          = 11
	cmdEnable            = 12

	mayRegister  = 0 // kinds of a restriction
	mayDo        = 1
	mustHaveFlag = 3

	featSingleMmap   = 1 << 0
	featNoDrop       = 1 << 1
	featSubmitStable = 1 << 2
	featExtArg       = 1 << 8 // of 5.11, the age that we ask for
	needed           = featSingleMmap | featNoDrop | featSubmitStable | featExtArg

	cqEventFDDisabled = 1 << 0

	offSQ   = 0
	offSQEs = 0x10000000
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle uint32
	features, wqFD                                         uint32
	resv                                                   [3]uint32
	sqOff                                                  sqOffsets
	cqOff                                                  cqOffsets
}

// sqOffsets is struct io_sqring_offsets.
type sqOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, resv1 uint32
	userAddr                                                        uint64
}

// cqOffsets is struct io_cqring_offsets.
type cqOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, resv1 uint32
	userAddr                                                        uint64
}

// sqe is struct io_uring_sqe.
type sqe struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off           uint64
	addr          uint64
	len           uint32
	rwFlags       uint32
	userData      uint64
	bufIndex      uint16
	personality   uint16
	fileIndex     uint32
	pad           [2]uint64
}

// cqe is struct io_uring_cqe.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// restriction is struct io_uring_restriction.
type restriction struct {
	kind  uint16
	what  uint8 // an operation, or flags
	resv  uint8
	resv2 [3]uint32
}

func setup(entries uint32, p *params) (int, error) {
	// SAFETY: p has the size of the kernel's struct and lives over the call.
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	if errno != 0 {
		return -1, errno
	}
	unix.CloseOnExec(int(fd))
	return int(fd), nil
}

func registerFiles(ring int, fds []int32) error {
	return register(ring, cmdRegisterFiles, fds)
}

func registerEventFD(ring int, fd int32) error {
	return register(ring, cmdRegisterEventFD, []int32{fd})
}

func unregisterEventFD(ring int) error { return register[int32](ring, cmdUnregisterEventFD, nil) }

// restrict leaves a disabled ring what this package does, with fixed files only.
func restrict(ring int) error {
	list := []restriction{{kind: mayRegister, what: cmdRegisterEventFD}, {kind: mayRegister, what: cmdUnregisterEventFD}, {kind: mustHaveFlag, what: flagFixedFile}}
	for _, op := range []uint8{opReadv, opWritev, opFsync, opRead, opWrite} {
		list = append(list, restriction{kind: mayDo, what: op})
	}
	return register(ring, cmdRestrict, list)
}

func enable(ring int) error { return register[int32](ring, cmdEnable, nil) }

func register[T int32 | restriction](ring int, cmd uintptr, list []T) error {
	// SAFETY: the list has as many elements as we say and is copied in the call.
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(ring), cmd, uintptr(unsafe.Pointer(unsafe.SliceData(list))), uintptr(len(list)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func enter(ring int, submit, wait uint32, brief bool) (uint32, error) {
	flags := uintptr(0)
	if wait > 0 {
		flags = enterGetEvents
	}
	call := unix.Syscall6
	if brief && wait == 0 {
		call = unix.RawSyscall6
	}
	n, _, errno := call(unix.SYS_IO_URING_ENTER, uintptr(ring), uintptr(submit), uintptr(wait), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return uint32(n), nil
}

// mapRings maps what is shared with the kernel.
func (r *Ring) mapRings(p *params) error {
	size := max(p.sqOff.array+4*p.sqEntries, p.cqOff.cqes+p.cqEntries*uint32(unsafe.Sizeof(cqe{})))
	shared, err := r.mmap(offSQ, int(size))
	if err != nil {
		return err
	}
	entries, err := r.mmap(offSQEs, int(p.sqEntries*uint32(unsafe.Sizeof(sqe{}))))
	if err != nil {
		return err
	}
	// SAFETY: the mappings are page-aligned, the offsets are the kernel's own
	// and lie within them (checked by word), and both last until Close.
	word := func(off uint32) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&shared[off])) }
	r.sq = rings{word(p.sqOff.head), word(p.sqOff.tail), p.sqEntries - 1}
	r.cq = rings{word(p.cqOff.head), word(p.cqOff.tail), p.cqEntries - 1}
	r.cqFlags = word(p.cqOff.flags)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(unsafe.SliceData(entries))), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&shared[p.cqOff.cqes])), p.cqEntries)
	// Submission i is entry i: the indirection of the array is not used.
	array := unsafe.Slice((*uint32)(unsafe.Pointer(&shared[p.sqOff.array])), p.sqEntries)
	for i := range array {
		array[i] = uint32(i)
	}
	return nil
}

func (r *Ring) mmap(off int64, size int) ([]byte, error) {
	m, err := unix.Mmap(r.fd, off, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map io_uring: %w", os.NewSyscallError("mmap", err))
	}
	r.maps = append(r.maps, m)
	return m, nil
}

// Vector is a list of buffers for one request, reused over requests. It must
// stay reachable until the request has completed, and its buffers too.
type Vector struct {
	iov   []unix.Iovec
	bytes int
}

// Set makes v the list of bufs, of which none is empty.
func (v *Vector) Set(bufs [][]byte) {
	v.iov, v.bytes = v.iov[:0], 0
	for _, b := range bufs {
		v.bytes += len(b)
		e := unix.Iovec{Base: unsafe.SliceData(b)}
		e.SetLen(len(b))
		v.iov = append(v.iov, e)
	}
}

// Clear forgets the buffers.
func (v *Vector) Clear() {
	clear(v.iov)
	v.iov, v.bytes = v.iov[:0], 0
}

// Read prepares a read into v from offset off of a fixed file. It reports
// whether there was room.
func (r *Ring) Read(file int, v *Vector, off int64, data uint64) bool {
	return r.transfer(opReadv, opRead, file, v, off, data)
}

// Write prepares a write of v at offset off of a fixed file.
func (r *Ring) Write(file int, v *Vector, off int64, data uint64) bool {
	return r.transfer(opWritev, opWrite, file, v, off, data)
}

// transfer prepares one movement; a single buffer needs no list.
func (r *Ring) transfer(many, one uint8, file int, v *Vector, off int64, data uint64) bool {
	e := r.next(many, data)
	if e == nil {
		return false
	}
	r.bytes += v.bytes
	e.fd, e.flags, e.off = int32(file), flagFixedFile, uint64(off)
	// SAFETY: the kernel gets the address of memory that the caller keeps in
	// place until the completion; Go's heap does not move, and stacks hold no
	// Vector's list, for append made it.
	if len(v.iov) == 1 {
		e.opcode, e.addr, e.len = one, uint64(uintptr(unsafe.Pointer(v.iov[0].Base))), uint32(v.iov[0].Len)
	} else {
		e.addr, e.len = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(v.iov)))), uint32(len(v.iov))
	}
	runtime.KeepAlive(v)
	return true
}
