package seccomp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The test program is its own victim: HVCTL_SECCOMP_TEST says what to do.
func TestMain(m *testing.M) {
	switch os.Getenv("HVCTL_SECCOMP_TEST") {
	case "":
		os.Exit(m.Run())
	case "exec": // load the default profile and run the arguments under it
		load(Default(nil))
		fmt.Println("exec:", unix.Exec(os.Args[1], os.Args[1:], []string{"HVCTL_SECCOMP_TEST=try"}))
	case "try":
		fmt.Println("getpid", os.Getpid() > 0)
		fmt.Println("mount", unix.Mount("none", "/", "tmpfs", 0, ""))
		fmt.Println("unshare", unix.Unshare(unix.CLONE_NEWUTS))
		_, _, e := unix.Syscall(decidedUpTo+1, ^uintptr(0), 0, 0)
		fmt.Println("newer", e)
		_, _, e = unix.Syscall(x32Bit|unix.SYS_MOUNT, 0, 0, 0)
		fmt.Println("x32 mount", e)
		_, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
		fmt.Println("crypto socket", err)
		c := exec.Command("/proc/self/exe") // fork, threads, pipes
		c.Env = []string{"HVCTL_SECCOMP_TEST=greet"}
		out, err := c.Output()
		fmt.Printf("child %q %v\n", out, err)
	case "greet":
		fmt.Print("hello")
	case "privileges":
		runtime.LockOSThread()
		drop()
		p, err := Compile(Default(nil))
		if err == nil {
			_, err = p.Load()
		}
		fmt.Println(errors.Is(err, ErrPrivileges), err)
	case "notify":
		notify()
	case "kill":
		load(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActKillProcess}}})
		fmt.Println("before")
		_ = unix.Sethostname([]byte("x"))
		fmt.Println("after")
	}
}

// load puts this thread under a profile.
func load(s *specs.LinuxSeccomp) int {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	p, err := Compile(s)
	if err != nil {
		panic(err)
	}
	fd, err := p.Load()
	if err != nil {
		panic(err)
	}
	return fd
}

// drop gives up the capabilities of this thread.
func drop() {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		panic(err)
	}
}

// notify makes a call that a listener is asked about, and goes away.
func notify() {
	listener, done := make(chan int), make(chan error)
	go func() {
		listener <- load(&specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: "/x",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActNotify}},
		})
		done <- unix.Sethostname([]byte("x"))
	}()
	fd := <-listener
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000)
	fmt.Println("asked", n, err)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	fmt.Println("close on exec", flags&unix.FD_CLOEXEC != 0, err)
	unix.Close(fd) // seccomp_unotify(2): calls in question then fail with ENOSYS
	fmt.Println("answer", <-done)
}

// run starts the test program as kind.
func run(t *testing.T, kind string, args ...string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, args...)
	c.Env = []string{"HVCTL_SECCOMP_TEST=" + kind}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if stderr.Len() > 0 {
		t.Logf("%s: %s", kind, stderr.String())
	}
	return string(out), err
}

func TestDefaultProfileInTheKernel(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	got, err := run(t, "exec", self)
	want := `getpid true
mount operation not permitted
unshare operation not permitted
newer function not implemented
x32 mount operation not permitted
crypto socket operation not permitted
child "hello" <nil>
`
	if err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

func TestLoadNeedsPrivileges(t *testing.T) {
	got, err := run(t, "privileges")
	if err != nil || !strings.HasPrefix(got, "true seccomp needs process.noNewPrivileges") {
		t.Errorf("%v: %s", err, got)
	}
}

func TestListenerIsAsked(t *testing.T) {
	got, err := run(t, "notify")
	if want := "asked 1 <nil>\nclose on exec true <nil>\nanswer function not implemented\n"; err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

func TestKillEndsTheProcess(t *testing.T) {
	got, err := run(t, "kill")
	e, ok := errors.AsType[*exec.ExitError](err)
	if !ok || e.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGSYS || got != "before\n" {
		t.Errorf("%v: %q", err, got)
	}
}

// int80 is a program that calls mount(0, 0, 0) the way 32-bit programs do and
// exits with the error number.
func int80() []byte {
	code := []byte{
		0xb8, 21, 0, 0, 0, // mov eax, 21 (mount)
		0x31, 0xdb, 0x31, 0xc9, 0x31, 0xd2, 0x31, 0xf6, 0x31, 0xff, // xor ebx, ecx, edx, esi, edi
		0xcd, 0x80, // int 0x80
		0xf7, 0xd8, // neg eax
		0x89, 0xc7, // mov edi, eax
		0xb8, 60, 0, 0, 0, // mov eax, 60 (exit)
		0x0f, 0x05, // syscall
	}
	const base, head = 0x400000, 64 + 56
	h := make([]byte, head)
	copy(h, "\x7fELF\x02\x01\x01")
	put := func(off, size int, v uint64) {
		for i := range size {
			h[off+i] = byte(v >> (8 * i))
		}
	}
	put(16, 2, 2)                       // ET_EXEC
	put(18, 2, 62)                      // EM_X86_64
	put(20, 4, 1)                       // version
	put(24, 8, base+head)               // entry
	put(32, 8, 64)                      // program headers
	put(52, 2, 64)                      // size of this header
	put(54, 2, 56)                      // of a program header
	put(56, 2, 1)                       // one of them
	put(64, 4, 1)                       // PT_LOAD
	put(68, 4, 5)                       // readable, executable
	put(80, 8, base)                    // address
	put(88, 8, base)                    //
	put(96, 8, head+uint64(len(code)))  // size in the file
	put(104, 8, head+uint64(len(code))) // and in memory
	put(112, 8, 0x1000)
	return append(h, code...)
}

func TestInt80IsFilteredToo(t *testing.T) {
	prog := filepath.Join(t.TempDir(), "int80")
	if err := os.WriteFile(prog, int80(), 0o755); err != nil {
		t.Fatal(err)
	}
	status := func(err error) int {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			return e.ExitCode()
		}
		return 0
	}
	err := exec.Command(prog).Run()
	if free := status(err); free == -1 || free == int(unix.EPERM) && os.Geteuid() == 0 {
		t.Skipf("the kernel runs no 32-bit calls: %v", err)
	}
	_, err = run(t, "exec", prog)
	if got := status(err); got != int(unix.EPERM) {
		t.Errorf("mount by int 0x80 under the default profile: status %d, want %d (EPERM)", got, unix.EPERM)
	}
}
