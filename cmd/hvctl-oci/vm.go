package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/ocivm"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// vmSuffix is what the program's name ends in when bundles are to run as
// microVMs (package ocivm).
const vmSuffix = "-vm"

// vmDir is where a VM's socket and logs are: beside the containers' own
// directories, under a name that no container has.
func (a *app) vmDir(id string) string { return filepath.Join(a.root, ".vm", id) }

// holdsVM tells whether there is a VM in the container called id.
func (a *app) holdsVM(id string) bool {
	if !a.vm || container.CheckID(id) != nil {
		return false
	}
	_, err := os.Stat(a.vmDir(id))
	return err == nil
}

// isSandbox tells whether a container does nothing but hold a pod's namespaces:
// by the words of containerd's CRI plugin and of CRI-O, or by its program, which
// is all that podman tells. Such a one has the VM of its pod's containers, and runs
// nothing else in it.
func isSandbox(s *specs.Spec) bool {
	const sandbox = "sandbox"
	return s.Annotations["io.kubernetes.cri.container-type"] == sandbox || s.Annotations["io.kubernetes.cri-o.ContainerType"] == sandbox ||
		s.Process != nil && pauses(s.Process.Args)
}

// pauses tells whether a program is one of those that engines hold pods with,
// and that do nothing else: catatonit as podman calls it, and Kubernetes's pause.
func pauses(args []string) bool {
	switch {
	case len(args) == 2 && args[1] == "-P":
		return filepath.Base(args[0]) == "catatonit"
	case len(args) == 1:
		return args[0] == "/pause"
	}
	return false
}

// vmConfig is the bundle's configuration, as the container's own is not: that
// one runs the VM's owner.
const vmConfig = "config.json"

// asVM turns the creation of a container into that of one with a VM in it, or,
// where its pod has one, with a client of that. undo takes back what was made when
// the creation fails.
func (a *app) asVM(r *container.Runtime, o *container.CreateOptions) (undo func(), err error) {
	if err := container.CheckID(o.ID); err != nil {
		return nil, err
	}
	if len(o.ExtraFiles) > 0 {
		return nil, errors.New("--preserve-fds: a VM has no use for descriptors of the host")
	}
	spec := o.Spec
	if spec == nil {
		if spec, _, err = container.Load(o.Bundle); err != nil {
			return nil, err
		}
	}
	sandbox := isSandbox(spec)
	if sandbox && !hasNetwork(spec) {
		return func() {}, nil // in the host's network there is no VM
	}
	if spec.Process == nil {
		return nil, errors.New("process: a VM's bundle has to have one")
	}
	pod := o.ID
	if !sandbox {
		if pod, err = a.sandboxOf(r, spec); err != nil {
			return nil, err
		}
	}
	dir, err := a.makeVMDir(o.ID)
	if err != nil {
		return nil, err
	}
	undo = func() { _ = os.RemoveAll(dir) } // it failed: the reason is told already
	err = saveJSON(filepath.Join(dir, vmConfig), spec)
	if err == nil && pod != "" {
		err = os.WriteFile(filepath.Join(dir, podMark), []byte(pod), 0o600)
	}
	if err == nil {
		o.ExecFile = true
		switch {
		case sandbox:
			o.Spec = podOuterSpec(spec, ocivm.VerbPod)
			o.Spec.Process.OOMScoreAdj = nil // to come last when memory runs out is for a program that waits
			o.ExtraFiles, err = a.ownerFiles(o.ID, spec, "--"+ocivm.FlagPod)
		case pod != "":
			o.Spec = podOuterSpec(spec, ocivm.VerbJoin)
			o.Spec.Process.Capabilities = &specs.LinuxCapabilities{}
			o.ExtraFiles, err = a.memberFiles(o.ID, pod, spec)
		default:
			o.Spec = outerSpec(spec, ocivm.VerbOwn)
			o.ExtraFiles, err = a.ownerFiles(o.ID, spec)
		}
	}
	if err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

// makeVMDir makes the directory of a new VM, or of a new member of one.
func (a *app) makeVMDir(id string) (string, error) {
	dir := a.vmDir(id)
	if err := os.MkdirAll(a.root, 0o711); err != nil {
		return "", fmt.Errorf("state root: %w; choose another with --root", err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("%w: %s", container.ErrExist, id)
		}
		return "", err
	}
	return dir, nil
}

// preparedVM is what we need to know of the owner's configuration.
type preparedVM struct {
	VM  struct{ Kernel, Initrd, KernelCache string } `json:"vm"`
	raw []byte
}

// askHvctl has hvctl prepare a bundle as a VM, find a kernel and an initramfs for
// it, and say whether a VM can be all that the bundle wants.
func (a *app) askHvctl(spec *specs.Spec, args ...string) ([]byte, error) {
	hvctl, err := helper("hvctl")
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	var out, stderr bytes.Buffer
	c := exec.Command(hvctl, append([]string{"oci-config"}, args...)...)
	if a.store != "" {
		c.Env = append(os.Environ(), "HVCTL_STORE="+a.store)
	}
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(in), &out, &stderr
	if err := c.Run(); err != nil {
		why := strings.TrimPrefix(strings.TrimSpace(stderr.String()), "hvctl: ")
		if why == "" {
			why = err.Error()
		}
		return nil, fmt.Errorf("as a VM: %s", why)
	}
	return out.Bytes(), nil
}

// helper is a program of hvctl's beside this one or in ../libexec/hvctl.
func helper(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	for _, p := range []string{filepath.Join(dir, name), filepath.Join(dir, "..", "libexec", "hvctl", name)} {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: not found beside %s nor under libexec/hvctl; install it there", name, self)
}

// ownerFiles prepares a VM and opens its owner's descriptors, in the order of
// package ocivm. flags are those of hvctl oci-config.
func (a *app) ownerFiles(id string, spec *specs.Spec, flags ...string) (files []*os.File, err error) {
	dir := a.vmDir(id)
	if err := ownByContainer(dir, spec); err != nil {
		return nil, err
	}
	cfg := new(preparedVM)
	if cfg.raw, err = a.askHvctl(spec, append(flags, id)...); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(cfg.raw, cfg); err != nil {
		return nil, fmt.Errorf("hvctl oci-config: %w", err)
	}
	vmm, err := helper("hvctl-vmm")
	if err != nil {
		return nil, err
	}
	config, err := memfd("config", cfg.raw)
	if err != nil {
		return nil, err
	}
	socket, err := listenAt(filepath.Join(dir, "exec.sock"))
	if err != nil {
		return nil, err
	}
	take := func(f *os.File, ferr error) *os.File {
		err = errors.Join(err, ferr)
		return f
	}
	files = []*os.File{
		take(readOnly(vmm)), config, take(readOnly(cfg.VM.Kernel)), take(readOnly(cfg.VM.Initrd)),
		take(os.OpenFile("/dev/kvm", os.O_RDWR, 0)), take(openTun(spec)), socket,
		take(mountOf(dir, false)), take(mountOf(cfg.VM.KernelCache, true)),
	}
	if err == nil && len(files) != ocivm.Descriptors {
		err = fmt.Errorf("%d descriptors for a VM's owner, which wants %d", len(files), ocivm.Descriptors)
	}
	return files, err
}

// openTun opens the tun device for a VM's owner. What is made of it lies in the
// network namespace that it was opened in; so where there is one already, as in a
// pod, it is opened there, and else by the owner. That may not be allowed to: on
// cgroup v2 podman 4.3 makes pods whose containers may open no device at all.
func openTun(spec *specs.Spec) (tun *os.File, err error) {
	const device = "/dev/net/tun"
	path := namespacePath(spec, specs.NetworkNamespace)
	if path == "" {
		return os.OpenFile(device, unix.O_PATH, 0)
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with this
		if err = os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)); err == nil {
			tun, err = os.OpenFile(device, os.O_RDWR|unix.O_NONBLOCK, 0)
		}
	}()
	<-done
	return tun, err
}

// mountOf is a file or directory of the host by itself: the root of a mount
// that is nowhere attached. Nothing else of the host is reached from it, and
// with readOnly it cannot be changed, whoever opens it again.
func mountOf(path string, readOnly bool) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if readOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			f.Close()
			return nil, &os.PathError{Op: "mount_setattr", Path: path, Err: err}
		}
	}
	return f, nil
}

// readOnly opens a file of the host to be read, by mountOf.
func readOnly(path string) (*os.File, error) {
	at, err := mountOf(path, true)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", at.Fd()))
	if err != nil {
		return nil, err
	}
	return f, nil
}

// memfd is a file with the content b, positioned at its beginning.
func memfd(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(b); err == nil {
		_, err = f.Seek(0, 0)
		if err == nil {
			return f, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("write %s: %w", name, err)
}

// listenAt makes a listening socket. Its directory keeps others away. The name
// is given through a descriptor: paths can be longer than a socket's name.
func listenAt(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	err = atShortPath(path, func(short string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: short}) })
	if err == nil {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return f, nil
}

func atShortPath(path string, do func(string) error) error {
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// ownByContainer gives the directory to the root of the container's user
// namespace, as whom the owner writes its logs.
func ownByContainer(dir string, spec *specs.Spec) error {
	if spec.Linux == nil {
		return nil
	}
	uid, gid := rootOf(spec.Linux.UIDMappings), rootOf(spec.Linux.GIDMappings)
	if uid < 0 || gid < 0 {
		return nil
	}
	return os.Chown(dir, uid, gid)
}

func rootOf(m []specs.LinuxIDMapping) int {
	for _, e := range m {
		if e.ContainerID == 0 && e.Size > 0 {
			return int(e.HostID)
		}
	}
	return -1
}

// vmCaps are what the owner keeps: to serve files as the guest's users, and to
// join the container's network interface with the guest's.
var vmCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_SETUID", "CAP_SETGID", "CAP_NET_ADMIN"}

// outerSpec is the configuration of the container that holds the VM, or a client
// of it: the bundle's, but for the program.
func outerSpec(s *specs.Spec, verb string) *specs.Spec {
	o := *s
	o.VM = nil
	o.Process = &specs.Process{
		Terminal: s.Process.Terminal, ConsoleSize: s.Process.ConsoleSize, OOMScoreAdj: s.Process.OOMScoreAdj,
		Args: []string{ocivm.Program, verb}, Cwd: "/",
		Env:             []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Capabilities:    &specs.LinuxCapabilities{Bounding: vmCaps, Effective: vmCaps, Permitted: vmCaps},
		NoNewPrivileges: true,
	}
	l := specs.Linux{}
	if s.Linux != nil {
		l = *s.Linux
	}
	l.Seccomp = nil // the guest loads it; the owner is not the bundle's program
	res := specs.LinuxResources{}
	if l.Resources != nil {
		res = *l.Resources
	}
	kvm, tun := int64(232), int64(200)
	for _, minor := range []*int64{&kvm, &tun} {
		res.Devices = append(slices.Clip(res.Devices),
			specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(10)), Minor: minor, Access: "rw"})
	}
	l.Resources = &res
	o.Linux = &l
	return &o
}

// bundleConfig is the configuration that the container, or the VM in it, was
// asked to be.
func (a *app) bundleConfig(r *container.Runtime, id string) (*specs.Spec, error) {
	if !a.holdsVM(id) {
		return r.Config(id)
	}
	if _, err := r.State(id); err != nil {
		return nil, err
	}
	s := new(specs.Spec)
	return s, readJSON("configuration", filepath.Join(a.vmDir(id), vmConfig), s)
}

func saveJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
