package ociattack

import (
	"encoding/binary"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// caller makes a static ELF program of x86-64 that makes one system call
// without arguments, natively or as a 32-bit one, and exits with 0 if it
// succeeded and with errno if not.
func caller(nr uint32, by32 bool) []byte {
	code := []byte{0xb8} // mov eax, nr
	code = binary.LittleEndian.AppendUint32(code, nr)
	if by32 {
		code = append(code, 0xcd, 0x80, 0x48, 0x63, 0xc0) // int 0x80; movsxd rax, eax
	} else {
		code = append(code, 0x0f, 0x05) // syscall
	}
	code = append(code,
		0x31, 0xff, // xor edi, edi
		0x48, 0x85, 0xc0, // test rax, rax
		0x79, 0x05, // jns +5
		0x89, 0xc7, // mov edi, eax
		0xf7, 0xdf, // neg edi
		0x90,                         // nop
		0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, SYS_exit_group
		0x0f, 0x05) // syscall
	const base, head = 0x400000, 64 + 56
	le := binary.LittleEndian
	f := append([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, make([]byte, 9)...)
	f = le.AppendUint16(f, 2)  // ET_EXEC
	f = le.AppendUint16(f, 62) // EM_X86_64
	f = le.AppendUint32(f, 1)
	for _, v := range []uint64{base + head, 64, 0} { // entry, program headers, section headers
		f = le.AppendUint64(f, v)
	}
	f = le.AppendUint32(f, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		f = le.AppendUint16(f, v)
	}
	size := uint64(head + len(code))
	f = le.AppendUint32(f, 1) // PT_LOAD
	f = le.AppendUint32(f, 5) // read, execute
	for _, v := range []uint64{0, base, base, size, size, 0x1000} {
		f = le.AppendUint64(f, v)
	}
	return append(f, code...)
}

const (
	sysGetpid   = 39
	sysGetpid32 = 20
	x32Bit      = 1 << 30
	sysFuture   = 900 // no kernel has it yet
)

// filter denies getpid and allows what else there is.
func filter() *specs.LinuxSeccomp {
	errno := uint(77)
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"getpid"}, Action: specs.ActErrno, ErrnoRet: &errno}},
	}
}

// TestSeccompHasNoSideDoor: what the filter denies is not to be had by another
// calling convention.
func TestSeccompHasNoSideDoor(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the calling conventions are those of x86-64")
	}
	h := newHost(t)
	for _, tc := range []struct {
		name string
		nr   uint32
		by32 bool
		// sure: without a filter the call works on every kernel.
		sure bool
	}{
		{"natively", sysGetpid, false, true},
		{"by int 0x80", sysGetpid32, true, false},
		{"by x32", sysGetpid | x32Bit, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run := func(s *specs.LinuxSeccomp) result {
				b := h.bundle("")
				b.put("bin/call", caller(tc.nr, tc.by32), 0o755)
				b.spec.Process.Args = []string{"/bin/call"}
				b.spec.Linux.Seccomp = s
				return b.run()
			}
			if r := run(filter()); r.code == 0 || r.code == 1 {
				t.Errorf("the call got through, or the container did not run: %v", r)
			} else if tc.sure && r.code != 77 {
				t.Errorf("want the filter's errno: %v", r)
			}
			if r := run(nil); r.code != 0 && tc.sure {
				t.Errorf("it fails without a filter, so this proves nothing: %v", r)
			} else if r.code != 0 {
				t.Logf("this kernel has no such calls: exit %d", r.code)
			}
		})
	}
}

// TestUnknownSystemCallIsENOSYS: a call newer than the profile is not there,
// not forbidden: libraries fall back on ENOSYS only.
func TestUnknownSystemCallIsENOSYS(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the program is one of x86-64")
	}
	h := newHost(t)
	// Only what the program itself needs: the filter is the last thing loaded
	// before it.
	allow := specs.LinuxSyscall{Names: []string{"execve", "execveat", "exit", "exit_group"}, Action: specs.ActAllow}
	run := func(nr uint32) result {
		b := h.bundle("")
		b.put("bin/call", caller(nr, false), 0o755)
		b.spec.Process.Args = []string{"/bin/call"}
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{allow}}
		return b.run()
	}
	if r := run(sysFuture); r.code != int(syscall.ENOSYS) {
		t.Errorf("a call of the future: %v", r)
	}
	if r := run(sysGetpid); r.code != int(syscall.EPERM) {
		t.Errorf("a call that is not allowed: %v", r)
	}
}

// TestFilterHoldsForExec: a process that joins later is under the filter, too.
func TestFilterHoldsForExec(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the program is one of x86-64")
	}
	h := newHost(t)
	b := h.bundle("sleep 1000")
	b.put("bin/call", caller(sysGetpid, false), 0o755)
	b.spec.Linux.Seccomp = filter()
	id := b.start()
	if r := h.do("exec", id, "/bin/call"); r.code != 77 {
		t.Errorf("want the filter's errno: %v", r)
	}
	if r := h.do("exec", id, "/bin/grep", "Seccomp:", "/proc/self/status"); strings.Join(strings.Fields(r.out), "") != "Seccomp:2" {
		t.Errorf("%v", r)
	}
}
