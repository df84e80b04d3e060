package hostile

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sessionKeyring is KEY_SPEC_SESSION_KEYRING, -3.
const sessionKeyring = ^uintptr(2)

// call makes a system call whose arguments make it do nothing. Where it is
// allowed, the kernel refuses those, or says yes.
func call(number, a, b, c uintptr) error {
	_, _, errno := unix.RawSyscall(number, a, b, c)
	switch errno {
	case 0, unix.EINVAL, unix.EBADF, unix.EFAULT, unix.E2BIG, unix.ENOKEY:
		return nil
	}
	return errno
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Read(make([]byte, 16)); errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func socket(family, kind int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func connect(family int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Connect(fd, to), unix.Close(fd))
}

func connectTCP(t Target) error {
	a, err := netip.ParseAddrPort(t.TCP)
	if err != nil {
		return err
	}
	return connect(unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())})
}

func listenTCP(Target) error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return l.Close()
}

func connectUnix(t Target) error { return connect(unix.AF_UNIX, &unix.SockaddrUnix{Name: t.Unix}) }

// openByHandle opens the secret by its number in the file system.
func openByHandle(t Target) error {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, t.Secret, 0)
	if err != nil {
		return err
	}
	dir, err := unix.Open(t.Folder, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := unix.OpenByHandleAt(dir, h, unix.O_RDONLY)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// trace asks to trace with no effect: PTRACE_SEIZE with options that there are
// not is refused after the permission was looked at.
func trace(t Target) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(t.Process), 0, 1<<30, 0, 0)
	if errno == 0 || errno == unix.EIO {
		return nil
	}
	return errno
}

// readMemory reads a word at address 0, where nothing is.
func readMemory(t Target) error {
	var b [8]byte
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	_, err := unix.ProcessVMReadv(t.Process, []unix.Iovec{local}, []unix.RemoteIovec{{Base: 0, Len: len(b)}}, 0)
	if errors.Is(err, unix.EFAULT) {
		return nil
	}
	return err
}

func signalByDescriptor(t Target) error {
	fd, err := unix.PidfdOpen(t.Process, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, 0, nil, 0)
}

// signalByPipe has the kernel signal a process when there is something to read.
func signalByPipe(t Target) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer func() { _, _ = unix.Close(p[0]), unix.Close(p[1]) }()
	if _, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETOWN, t.Process); err != nil {
		return err
	}
	_, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETSIG, 0)
	return err
}

func execute(Target) error {
	if err := exec.Command("/bin/true").Run(); err != nil {
		return err
	}
	return nil
}

// cloneWith asks for a child in new namespaces, with a combination of flags that
// the kernel refuses after it has looked whether it may.
func cloneWith(flag uintptr) error {
	// CLONE_SIGHAND without CLONE_VM is EINVAL, and no child comes to be.
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE, flag|unix.CLONE_SIGHAND, 0, 0)
	if errno == unix.EINVAL {
		return nil
	}
	if errno == 0 {
		return errors.New("a child came to be")
	}
	return errno
}

func makeRing(Target) error {
	var params [120]byte
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

func executableMemory(Target) error {
	m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	return unix.Munmap(m)
}

// beRoot takes root's user ID, unless it has that.
func beRoot(Target) error {
	if os.Geteuid() == 0 {
		return nil
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
