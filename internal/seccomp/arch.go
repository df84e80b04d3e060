package seccomp

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// none stands for "this architecture has no such system call".
const none = -1

// syscall is one row of the table in syscalls.go: a number for each interface.
type syscall struct {
	name             string
	amd64, x32, i386 int16
}

// x32Bit marks numbers of the x32 ABI, which shares AUDIT_ARCH_X86_64.
const x32Bit = 0x40000000

// arch is one system call interface of the machine.
type arch struct {
	name   specs.Arch
	audit  uint32 // seccomp_data.arch
	bit    uint32 // set in every number
	narrow bool   // arguments have 32 bits
	number func(s *syscall) int16
}

// The interfaces of an x86-64 kernel.
var (
	amd64    = arch{name: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, number: func(s *syscall) int16 { return s.amd64 }}
	amd64x32 = arch{name: specs.ArchX32, audit: unix.AUDIT_ARCH_X86_64, bit: x32Bit, number: func(s *syscall) int16 { return s.x32 }}
	i386     = arch{name: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, narrow: true, number: func(s *syscall) int16 { return s.i386 }}
)

// find returns the row of a call, nil when no interface has it.
func find(name string) *syscall {
	i, ok := slices.BinarySearchFunc(syscalls[:], name, func(s syscall, name string) int { return strings.Compare(s.name, name) })
	if !ok {
		return nil
	}
	return &syscalls[i]
}

// foreign are the architectures that a profile may list for other machines.
var foreign = []specs.Arch{
	specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL,
	specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390,
	specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K,
	specs.ArchSH, specs.ArchSHEB,
}

// arches are the interfaces that a profile filters: ours, and those it lists.
func arches(list []specs.Arch) ([]arch, error) {
	all := []arch{amd64}
	for _, a := range list {
		switch {
		case a == specs.ArchX86_64:
		case a == specs.ArchX32 && !slices.ContainsFunc(all, func(b arch) bool { return b.name == a }):
			all = append(all, amd64x32)
		case a == specs.ArchX86 && !slices.ContainsFunc(all, func(b arch) bool { return b.name == a }):
			all = append(all, i386)
		case a == specs.ArchX32, a == specs.ArchX86, slices.Contains(foreign, a):
		default:
			return nil, bad("architectures", "%q is unknown", a)
		}
	}
	return all, nil
}

// multiplexer is an i386 call that makes others: which one says its first
// argument. Of ipc's, the upper half is a version.
type multiplexer struct {
	via  *syscall
	call uint64
}

// multiplexerMask is the part of the argument that holds the number.
const multiplexerMask = 0xffff

// socketCalls and ipcCalls are what socketcall(2) and ipc(2) make, at the index
// of their number (linux/net.h, linux/ipc.h).
var (
	socketCalls = []string{
		1: "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv", "sendto",
		"recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg",
	}
	ipcCalls = []string{
		1: "semop", "semget", "semctl", "semtimedop", 11: "msgsnd", "msgrcv", "msgget", "msgctl", 21: "shmat", "shmdt", "shmget", "shmctl",
	}
)

// multiplexed tells how i386 can make a call as well; via is nil when it
// cannot.
func multiplexed(name string) multiplexer {
	if i := slices.Index(socketCalls, name); i > 0 {
		return multiplexer{find("socketcall"), uint64(i)}
	}
	if i := slices.Index(ipcCalls, name); i > 0 {
		return multiplexer{find("ipc"), uint64(i)}
	}
	return multiplexer{}
}
