package userns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// waitEnv is the environment variable by which a process learns that it has to
// wait until it is mapped: the number of a descriptor that is closed then.
const waitEnv = "HVCTL_USERNS_WAIT"

// Start starts a process in a new user namespace with m, and in whatever other
// namespaces attr asks for. The program has to call Enter first.
func (m Mapping) Start(argv []string, attr *os.ProcAttr) (*os.Process, error) {
	sys := syscall.SysProcAttr{}
	if attr.Sys != nil {
		sys = *attr.Sys
	}
	sys.Cloneflags |= syscall.CLONE_NEWUSER
	a := *attr
	a.Sys = &sys
	if !m.Helped {
		sys.UidMappings, sys.GidMappings = m.table(m.UIDs), m.table(m.GIDs) // written before the program begins
		p, err := os.StartProcess(argv[0], argv, &a)
		return p, explain(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	a.Env = append(append([]string(nil), attr.Env...), fmt.Sprintf("%s=%d", waitEnv, len(a.Files)))
	a.Files = append(append([]*os.File(nil), attr.Files...), r)
	p, err := os.StartProcess(argv[0], argv, &a)
	if err != nil {
		return nil, explain(err)
	}
	err = errors.Join(help("newuidmap", p.Pid, m.UIDs), help("newgidmap", p.Pid, m.GIDs))
	if err == nil {
		_, err = w.Write([]byte{1})
	}
	if err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, err
	}
	return p, nil
}

// explain says what may be the reason when the kernel makes no namespace.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: this user gets no user namespace, or none with mounts: `hvctl doctor` looks for the setting that forbids it", err)
	}
	return err
}

func (Mapping) table(rs []Range) (out []syscall.SysProcIDMap) {
	for _, r := range rs {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(r.Inside), HostID: int(r.Outside), Size: int(r.Size)})
	}
	return out
}

// help has a program with privileges write a mapping, which it checks.
func help(program string, pid int, rs []Range) error {
	args := []string{strconv.Itoa(pid)}
	for _, r := range rs {
		args = append(args, fmt.Sprint(r.Inside), fmt.Sprint(r.Outside), fmt.Sprint(r.Size))
	}
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(out))
	}
	return nil
}

// Enter is the first thing that a program does which Start may have started: it
// waits until it is mapped, and begins anew as root of its namespace. It
// returns at once where there is nothing to wait for.
func Enter() error {
	s, ok := os.LookupEnv(waitEnv)
	if !ok {
		return nil
	}
	fd, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("%s=%q: no descriptor", waitEnv, s)
	}
	_ = os.Unsetenv(waitEnv)
	mapped := os.NewFile(uintptr(fd), "mapped")
	if n, _ := mapped.Read(make([]byte, 1)); n != 1 {
		return errors.New("the user namespace was not mapped: whoever started this gave up")
	}
	_ = mapped.Close() // it was only read
	// The kernel gives capabilities to root when it executes something.
	return os.NewSyscallError("execve", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}
