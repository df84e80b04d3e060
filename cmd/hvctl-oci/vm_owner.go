package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/ocivm"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// dialVM connects to the VM's owner.
func (a *app) dialVM(id string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = atShortPath(filepath.Join(a.vmDir(id), "exec.sock"), func(short string) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: short}) })
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("the VM of container %q: %w", id, err)
	}
	return os.NewFile(uintptr(fd), "owner"), nil
}

// execInVM turns a further process of the container into one that has the VM's
// owner run p in the guest.
func (a *app) execInVM(r *container.Runtime, id string, o *container.ExecOptions) error {
	if st, err := a.state(r, id); err != nil {
		return err
	} else if st.Status == container.Paused {
		return fmt.Errorf("cannot exec in container %q: %w: it is paused", id, container.ErrState)
	}
	if len(o.ExtraFiles) > 0 {
		return errors.New("--preserve-fds: a VM has no use for descriptors of the host")
	}
	p, owner := o.Process, id
	if pod := a.podOf(id); pod != "" {
		owner = pod
	}
	files, err := a.clientFiles(owner, ocivm.Request{Container: a.member(id), Process: p})
	if err != nil {
		return err
	}
	o.ExecFile, o.ExtraFiles = true, files
	o.Process = &specs.Process{
		Terminal: p.Terminal, ConsoleSize: p.ConsoleSize, Cwd: "/",
		Args:            []string{ocivm.Program, ocivm.VerbExec},
		Env:             []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Capabilities:    &specs.LinuxCapabilities{},
		NoNewPrivileges: true,
	}
	return nil
}

// pausedMark is there while the VM is paused. The cgroup's freezer is not used:
// kernels before 6.9 count a thread of KVM's own that never freezes.
const pausedMark = "paused"

// pauseVM has the owner stop the machine, or let it go on.
func (a *app) pauseVM(r *container.Runtime, id string, on bool) error {
	st, err := a.state(r, id)
	if err != nil {
		return err
	}
	if a.member(id) != "" {
		return fmt.Errorf("container %q is one of a pod's VM and cannot be paused or resumed alone; pause the pod's sandbox, %s", id, a.podOf(id))
	}
	want, do := container.Running, ocivm.Pause
	if !on {
		want, do = container.Paused, ocivm.Resume
	}
	if st.Status != want {
		return fmt.Errorf("cannot %s container %q: %w: it is %s", do, id, container.ErrState, st.Status)
	}
	mark := filepath.Join(a.vmDir(id), pausedMark)
	if on { // before, so that what is paused is never taken to run
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			return err
		}
	}
	err = a.ask(id, ocivm.Request{Do: do})
	if on == (err != nil) {
		_ = os.Remove(mark) // it is not paused, which the mark must not claim
	}
	return err
}

// ask has the owner in the container called id do something that needs no process.
func (a *app) ask(id string, r ocivm.Request) error {
	conn, err := a.dialVM(id)
	if err != nil {
		return err
	}
	defer conn.Close()
	do := r.Do
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	n := int(null.Fd())
	if err := unix.Sendmsg(int(conn.Fd()), b, unix.UnixRights(n, n, n), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("%s the VM of container %q: %w", do, id, err)
	}
	var reply ocivm.Reply
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		return fmt.Errorf("%s the VM of container %q: %w", do, id, err)
	}
	if reply.Error != "" {
		return fmt.Errorf("%s the VM of container %q: %s", do, id, reply.Error)
	}
	return nil
}

// state is the container's, or the VM's in it.
func (a *app) state(r *container.Runtime, id string) (*container.State, error) {
	st, err := r.State(id)
	if err != nil || !a.holdsVM(id) || st.Status != container.Running {
		return st, err
	}
	if _, err := os.Stat(filepath.Join(a.vmDir(id), pausedMark)); err == nil {
		st.Status = container.Paused
	}
	return st, nil
}

// checkVMUpdate refuses what would end a VM, or not reach its guest.
func checkVMUpdate(r *specs.LinuxResources, member bool) error {
	switch {
	case member:
		return errors.New("the limits of a container in a pod's VM are the guest's, and cannot be changed while it runs")
	case r.Memory != nil && r.Memory.Limit != nil:
		return errors.New("memory: a running VM's memory cannot be changed; its guest would not notice, and the kernel would kill it")
	case r.Pids != nil && r.Pids.Limit != nil:
		return errors.New("pids: a running VM's processes are counted by its guest, which is not told")
	}
	return nil
}

// leave has the owner of a pod let go of a container that has ended, so that its
// file tree is not used any more. An owner that has ended has done so.
func (a *app) leave(id string) {
	if a.member(id) != "" {
		_ = a.ask(a.podOf(id), ocivm.Request{Do: ocivm.Remove, Container: id})
	}
}
