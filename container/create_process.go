package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/program"
	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/seccomp"
	"github.com/hvctl/hvctl/internal/userns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// grouped is the outcome of making a group.
type grouped struct {
	g   Cgroup
	err error
}

// makeGroup makes the container's group, meanwhile. Its limits are
// linux.resources; the devices that every container has are always allowed,
// and all others only where the configuration says so.
func (c *creation) makeGroup() <-chan grouped {
	out := make(chan grouped, 1)
	if c.r.Cgroups == nil {
		out <- grouped{}
		return out
	}
	res := &specs.LinuxResources{}
	if c.spec.Linux != nil && c.spec.Linux.Resources != nil {
		*res = *c.spec.Linux.Resources
	}
	if len(res.Devices) > 0 || userns.IsHost() && !unprivileged() {
		// Others have no right to it, and can make no device to be kept from.
		res.Devices = withDefaultDevices(res.Devices)
	}
	path, warn := c.rec.CgroupPath, c.r.warning()
	go func() {
		if c.scope.Unit != "" {
			out <- c.makeScope(res, warn)
			return
		}
		g, err := c.r.Cgroups.Create(path, res, warn)
		out <- grouped{g, err}
	}()
	return out
}

// makeScope has systemd make the group.
func (c *creation) makeScope(res *specs.LinuxResources, warn func(string)) grouped {
	s, err := c.r.systemdScopes()
	if err != nil {
		return grouped{err: err}
	}
	g, err := s.create(context.Background(), c.scope, c.rec.ID, res, warn)
	if err != nil {
		return grouped{err: err}
	}
	return grouped{g: g}
}

func (r *Runtime) warning() func(string) {
	return func(msg string) {
		if r.Log != nil {
			r.Log.Warn("cgroup", "what", msg)
		}
	}
}

// awaitGroup waits for the group.
func (c *creation) awaitGroup(made <-chan grouped) error {
	m := <-made
	c.group = m.g
	if errors.Is(m.err, cgroup.ErrPermission) && unprivileged() && !c.limited() {
		c.r.warning()("the container has none: " + m.err.Error())
		c.rec.CgroupPath, m.err = "", nil
	}
	if m.err != nil {
		return m.err
	}
	if m.g != nil {
		c.rec.Cgroup = m.g.Paths()
	}
	return cgroupMounts(c.plan, c.group)
}

// unprivileged says that the caller is not root, and so has only what is its
// own to give.
func unprivileged() bool { return os.Geteuid() != 0 }

// mayLeaveGroups says that the container's processes may call setgroups(2): not
// where the caller could not let them, as an ordinary user, or in a user
// namespace of such a one.
func mayLeaveGroups() bool {
	return !unprivileged() && (userns.IsHost() || userns.SetgroupsAllowed())
}

// limited says that the configuration asks for limits.
func (c *creation) limited() bool {
	return c.spec.Linux != nil && c.spec.Linux.Resources != nil
}

// ownIDsOnly refuses mappings that only root, or newuidmap, could make.
func ownIDsOnly(l *specs.Linux) error {
	for _, m := range []struct {
		field string
		list  []specs.LinuxIDMapping
		own   int
	}{{"linux.uidMappings", l.UIDMappings, os.Geteuid()}, {"linux.gidMappings", l.GIDMappings, os.Getegid()}} {
		if len(m.list) != 1 || m.list[0].Size != 1 || int(m.list[0].HostID) != m.own {
			return configError{&FieldError{Field: m.field, Reason: fmt.Sprintf("without root only one's own ID (%d) can be mapped; newuidmap is not used", m.own)}}
		}
	}
	return nil
}

// descriptors opens what the process is given and numbers it.
func (c *creation) descriptors(now bool) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	c.sync = os.NewFile(uintptr(pair[0]), "sync")
	c.files = append(stdio(c.o.Stdio), c.o.ExtraFiles...)
	p := &c.prog
	*p = program.Container{
		Plan: c.plan, Sync: c.give(os.NewFile(uintptr(pair[1]), "sync"), true),
		UserNS: plan.None, PIDNS: plan.None, Start: plan.None, Console: plan.None, Notify: plan.None,
	}
	if pr := c.plan.Process; pr != nil {
		pr.KeepFDs, pr.ByFD = uint32(len(c.o.ExtraFiles)), c.o.ExecFile
	}
	if !now {
		l, err := c.dir.listen()
		if err != nil {
			return err
		}
		p.Start = c.give(l, true)
	}
	if p.Console, err = c.console(); err != nil {
		return err
	}
	if p.Notify, err = c.seccompListener(); err != nil {
		return err
	}
	if c.ns, err = openNamespaces(c.spec); err != nil {
		return err
	}
	c.plan.Unshare = c.ns.unshare
	for _, flag := range c.ns.order {
		c.plan.Join = append(c.plan.Join, plan.Join{FD: int32(c.give(c.ns.join[flag], false)), Flag: flag})
	}
	if c.ns.user != nil {
		p.UserNS = c.give(c.ns.user, false)
	}
	if c.ns.pid != nil {
		p.PIDNS = c.give(c.ns.pid, false)
	}
	return c.mappedMounts()
}

// give adds a descriptor of the process and returns its number there.
func (c *creation) give(f *os.File, own bool) int {
	c.files = append(c.files, f)
	if own {
		c.own = append(c.own, f)
	}
	return len(c.files) - 1
}

func (c *creation) console() (int, error) {
	switch {
	case c.o.Console != nil:
		return c.give(c.o.Console, false), nil
	case c.o.ConsoleSocket != "":
		s, err := connectUnix("--console-socket", c.o.ConsoleSocket)
		if err != nil {
			return plan.None, err
		}
		return c.give(s, true), nil
	}
	return plan.None, nil
}

func (c *creation) seccompListener() (int, error) {
	path := listenerPath(c.spec.Linux)
	if path == "" || c.plan.Process == nil {
		return plan.None, nil
	}
	s, err := connectUnix("linux.seccomp.listenerPath", path)
	if err != nil {
		return plan.None, err
	}
	return c.give(s, true), nil
}

// listenerPath is where a profile that notifies has its agent; "" without.
func listenerPath(l *specs.Linux) string {
	if l == nil || l.Seccomp == nil {
		return ""
	}
	return l.Seccomp.ListenerPath
}

// filter compiles the configuration's seccomp profile into a process's plan.
func (r *Runtime) filter(p *plan.Process, l *specs.Linux) error {
	if p == nil || l == nil || l.Seccomp == nil {
		return nil
	}
	prog, err := seccomp.Compile(l.Seccomp)
	if err != nil {
		return configError{fmt.Errorf("linux.seccomp: %w", err)}
	}
	p.Seccomp, p.SeccompFlags = prog.Filter, prog.Flags
	if len(prog.Unknown) > 0 && r.Log != nil {
		r.Log.Debug("linux.seccomp: no architecture has these system calls, their rules are ignored", "names", prog.Unknown)
	}
	return nil
}

// seccompState is what the seccomp agent is told with the listener
// (config-linux.md, "The Container Process State").
func (rec *record) seccompState(s *specs.LinuxSeccomp, pid int, st specs.ContainerState) ([]byte, error) {
	b, _ := json.Marshal(specs.ContainerProcessState{ // plain data
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: s.ListenerMetadata,
		State: specs.State{Version: specs.Version, ID: rec.ID, Status: st, Pid: rec.PID, Bundle: rec.Bundle, Annotations: rec.Annot},
	})
	if len(b) > program.MaxState {
		return nil, fmt.Errorf("linux.seccomp.listenerPath: the state for the agent has %d bytes, at most %d can be sent: shorten linux.seccomp.listenerMetadata or annotations", len(b), program.MaxState)
	}
	return b, nil
}

// spawn starts the process and records it.
func (c *creation) spawn() error {
	defer func() {
		closeAll(c.own)
		c.own = nil
		c.ns.close()
	}()
	attr := &syscall.SysProcAttr{Cloneflags: uintptr(c.ns.clone)}
	if c.ns.user != nil { // all others belong to it
		attr.Cloneflags, c.prog.Flags = 0, uint64(c.ns.clone)
	}
	if c.ns.clone&unix.CLONE_NEWUSER != 0 {
		attr.UidMappings, attr.GidMappings = idMaps(c.spec.Linux.UIDMappings), idMaps(c.spec.Linux.GIDMappings)
		attr.GidMappingsEnableSetgroups = mayLeaveGroups() // else the kernel wants it denied
		// The host's IDs need not exist in there; without this the process would
		// be nobody and lose its capabilities with the execve.
		attr.Credential = &syscall.Credential{NoSetGroups: !mayLeaveGroups()}
	}
	birth, err := c.groupFiles()
	if err != nil {
		return err
	}
	if birth != nil {
		defer birth.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(birth.Fd())
	}
	if c.run, err = program.Create(&c.prog).Start(c.files, attr); err != nil {
		return fmt.Errorf("start the container's first process: %w", err)
	}
	if c.rec.PID = c.run.PID; c.prog.UserNS != plan.None || c.prog.PIDNS != plan.None {
		if err := c.adoptClone(); err != nil {
			return fmt.Errorf("start the container's first process: %w", err)
		}
	}
	if c.group != nil {
		if err := c.group.Settle(c.r.warning()); err != nil {
			return err
		}
	}
	fd, err := unix.PidfdOpen(c.rec.PID, 0) // our child: it is not reaped before we do
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "pidfd")
	st, err := readStat(c.rec.PID)
	if err != nil {
		return err
	}
	c.rec.PIDStart = st.start
	return c.dir.save(c.rec, false)
}

// groupFiles gives the process what it enters its group by, and returns the
// group it is to be born in; nil: there is none.
func (c *creation) groupFiles() (birth *os.File, err error) {
	if c.group == nil {
		return nil, nil
	}
	doors, err := c.group.Doors(false)
	if err != nil {
		return nil, err
	}
	for _, f := range doors {
		c.prog.Groups = append(c.prog.Groups, c.give(f, true))
	}
	return c.group.File()
}

// adoptClone waits for the clone that a program which joins namespaces makes.
// The clone may have failed before we are told of it.
func (c *creation) adoptClone() (err error) {
	c.rec.PID = 0
	for c.rec.PID == 0 {
		told, nerr := c.run.Next()
		if errors.Is(nerr, io.EOF) {
			err = errors.Join(err, errors.New("it died"))
			break
		}
		err, c.rec.PID = errors.Join(err, nerr), told.Child
	}
	reap(c.run.PID) // it ends with this, either way
	if err != nil && c.rec.PID > 0 {
		reap(c.rec.PID)
		c.rec.PID = 0
	}
	return err
}

// stdio are the streams given, or our own.
func stdio(given [3]*os.File) []*os.File {
	out := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	for i, f := range given {
		if f != nil {
			out[i] = f
		}
	}
	return out
}

// withDefaultDevices is the configuration's list with what it leaves open: to
// begin with nothing is allowed, and the devices that every container has
// always are.
func withDefaultDevices(list []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	number := func(n int64) *int64 { return &n }
	out := append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, list...)
	for _, kind := range []string{"c", "b"} { // making a device file gives no access to the device
		out = append(out, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: "m"})
	}
	for _, d := range defaultDevices {
		out = append(out, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(int64(d.Major)), Minor: number(int64(d.Minor)), Access: "rwm"})
	}
	const consoleMajor, ptyMajor = 5, 136
	for _, minor := range []int64{1, 2} { // console, ptmx
		out = append(out, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(consoleMajor), Minor: number(minor), Access: "rwm"})
	}
	return append(out, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(ptyMajor), Access: "rwm"})
}
