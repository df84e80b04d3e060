package cgroup

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The commands of bpf(2) carry pointers as 64-bit numbers inside of a struct.
// Each struct below mirrors the part of union bpf_attr that its command reads.

type bpfLoad struct {
	progType, insnCount uint32
	insns, license      uint64
	_                   [24]byte // the verifier's log, kern_version, prog_flags
	name                [16]byte
}

type bpfAttach struct {
	target, prog, attachType, flags uint32
	_                               uint32 // replace_bpf_fd
}

// bpfQuery goes on to the revision that kernels 6.17 to 7.1 write even when
// the caller's struct ends before it.
type bpfQuery struct {
	target, attachType uint32
	_                  [8]byte // query_flags, attach_flags
	ids                uint64
	count, _           uint32
	_                  [32]byte // prog_attach_flags, link_ids, link_attach_flags, revision
}

type bpfByID struct {
	id uint32
	_  [8]byte // next_id, open_flags
}

// bpf calls bpf(2). The kernel answers EAGAIN when a signal came during
// verification.
func bpf[T any](cmd int, attr *T) (int, error) {
	for try := 0; ; try++ {
		// SAFETY: attr points to a struct of the size given, which lives during
		// the call; pointers inside of it are pinned by the callers below.
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
		runtime.KeepAlive(attr)
		switch {
		case errno == 0:
			return int(r), nil
		case (errno == unix.EAGAIN || errno == unix.EINTR) && try < 10:
			continue
		}
		return -1, errno
	}
}

// attachDevices loads the program and makes it the only one of the group in
// dir. fresh says that the group has none yet.
func attachDevices(dir string, p []insn, fresh bool) error {
	group, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(group)
	var old []uint32
	if !fresh {
		if old, err = attached(group); err != nil {
			return err
		}
	}
	prog, err := load(p)
	if err != nil {
		return err
	}
	defer unix.Close(prog) // the group keeps it
	a := bpfAttach{target: uint32(group), prog: uint32(prog), attachType: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, &a); err != nil {
		return os.NewSyscallError("BPF_PROG_ATTACH", err)
	}
	// Until the old ones are gone all of them have to agree: never too much.
	for _, id := range old {
		if err := detach(group, id); err != nil {
			return err
		}
	}
	return nil
}

func load(p []insn) (int, error) {
	code, license := encode(p), []byte("Apache-2.0\x00")
	// SAFETY: both slices are not empty, and pinned until the call has returned;
	// the kernel reads len(code) and the license up to its NUL.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	a := bpfLoad{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, insnCount: uint32(len(p)),
		insns: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	copy(a.name[:], "hvctl_devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, &a)
	if err != nil {
		return -1, os.NewSyscallError("BPF_PROG_LOAD", err)
	}
	return fd, nil
}

// maxPrograms is more than the kernel attaches to one group (BPF_CGROUP_MAX_PROGS).
const maxPrograms = 64

// attached lists the group's own device programs.
func attached(group int) ([]uint32, error) {
	ids := make([]uint32, maxPrograms)
	// SAFETY: the kernel writes at most count IDs into the pinned array.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	q := bpfQuery{
		target: uint32(group), attachType: unix.BPF_CGROUP_DEVICE,
		ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: maxPrograms,
	}
	if _, err := bpf(unix.BPF_PROG_QUERY, &q); err != nil {
		return nil, os.NewSyscallError("BPF_PROG_QUERY", err)
	}
	if q.count > maxPrograms {
		return nil, fmt.Errorf("BPF_PROG_QUERY: %d programs", q.count)
	}
	return ids[:q.count], nil
}

func detach(group int, id uint32) error {
	prog, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, &bpfByID{id: id})
	if err == unix.ENOENT {
		return nil // somebody else did
	}
	if err != nil {
		return os.NewSyscallError("BPF_PROG_GET_FD_BY_ID", err)
	}
	defer unix.Close(prog)
	a := bpfAttach{target: uint32(group), prog: uint32(prog), attachType: unix.BPF_CGROUP_DEVICE}
	if _, err := bpf(unix.BPF_PROG_DETACH, &a); err != nil && err != unix.ENOENT {
		return os.NewSyscallError("BPF_PROG_DETACH", err)
	}
	return nil
}
