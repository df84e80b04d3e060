package usernet

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asConfined has the test program confine itself, and try what it is told.
const asConfined = "HVCTL_USERNET_CONFINED"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asConfined); dir != "" {
		confined(dir)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// confined prints a line for each thing that it tries.
func confined(dir string) {
	existing, err := os.OpenFile(filepath.Join(dir, "open"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	ln, lerr := net.Listen("tcp", "127.0.0.1:0")
	if lerr != nil {
		fmt.Println("listen before", lerr)
		return
	}
	started := make(chan struct{})
	other := make(chan error)
	go func() { // a thread that was there before
		runtime.LockOSThread()
		close(started)
		<-other
		other <- unix.Mkdir(filepath.Join(dir, "other"), 0o700)
	}()
	<-started
	if err == nil {
		err = confine()
	}
	fmt.Println("confine", err)
	_, err = os.Create(filepath.Join(dir, "file"))
	fmt.Println("create", err)
	fmt.Println("remove", os.Remove(existing.Name()))
	other <- nil
	fmt.Println("mkdir on another thread", <-other)
	fmt.Println("exec", exec.Command("/bin/true").Run())
	fmt.Println("kill", unix.Kill(os.Getppid(), 0))
	_, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	fmt.Println("unix socket", err)
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	fmt.Println("raw socket", err)
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	fmt.Println("multipath socket", err)
	_, err = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	fmt.Println("code", err)
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil {
		err = unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	}
	fmt.Println("code later", err)
	_, err = unix.PtraceGetEventMsg(os.Getppid())
	fmt.Println("trace", err)
	_, err = net.Listen("tcp", "127.0.0.1:0")
	fmt.Println("port", err)
	_, err = unix.FcntlInt(existing.Fd(), unix.F_SETOWN, os.Getppid())
	fmt.Println("signals by descriptors", err)
	fmt.Println("works", works(ln))
}

// works does what the process has to do: connections, and what Go's runtime
// does meanwhile.
func works(ln net.Listener) error {
	var all sync.WaitGroup
	errs := make(chan error, 64)
	for range 32 {
		all.Go(func() {
			runtime.LockOSThread() // a thread each, which ends
			c, err := net.Dial("tcp", ln.Addr().String())
			if err == nil {
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				_, err = c.Write([]byte("x"))
				c.Close()
			}
			errs <- err
		})
		all.Go(func() {
			c, err := ln.Accept()
			if err == nil {
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			errs <- err
		})
	}
	all.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			return err
		}
	}
	for range 20 {
		_ = make([]byte, 8<<20)
		runtime.GC()
	}
	if _, err := os.ReadFile("/etc/resolv.conf"); err != nil && !os.IsNotExist(err) {
		return err
	}
	u, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		return err
	}
	return u.Close()
}

// TestConfinedProcessCarriesConnectionsAndNothingElse.
func TestConfinedProcessCarriesConnectionsAndNothingElse(t *testing.T) {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), asConfined+"="+t.TempDir())
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	said := map[string]string{}
	for line := range strings.Lines(string(out)) {
		for _, what := range []string{"confine ", "create ", "remove ", "mkdir on another thread ", "exec ", "kill ", "unix socket ", "raw socket ", "multipath socket ", "code later ", "code ", "trace ", "port ", "signals by descriptors ", "works "} {
			if rest, ok := strings.CutPrefix(line, what); ok {
				said[what] = strings.TrimSpace(rest)
				break
			}
		}
	}
	for what, got := range said {
		if fine := got == "<nil>"; fine != (what == "confine " || what == "works ") || !fine && !strings.Contains(got, "operation not permitted") {
			t.Errorf("%s: %s", what, got)
		}
	}
	if len(said) != 15 {
		t.Errorf("it said %q", out)
	}
}
