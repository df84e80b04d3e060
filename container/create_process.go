package container

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/seal"
	"github.com/hvctl/hvctl/container/spawn"
	"github.com/hvctl/hvctl/container/stage"
	"github.com/hvctl/hvctl/internal/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (r *Runtime) birthIn() bool { return r.Cgroups != nil && r.Cgroups.BirthIn() }

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
	res.Devices = withDefaultDevices(res.Devices)
	path, warn := c.rec.CgroupPath, c.r.warning()
	go func() {
		g, err := c.r.Cgroups.Create(path, res, warn)
		out <- grouped{g, err}
	}()
	return out
}

func (r *Runtime) warning() func(string) {
	return func(msg string) {
		if r.Log != nil {
			r.Log.Warn(msg)
		}
	}
}

// join waits for the group and, where the process is there already, moves it in.
func (c *creation) join(made <-chan grouped) error {
	m := <-made
	c.group = m.g
	if m.err != nil || m.g == nil {
		return m.err
	}
	c.rec.Cgroup = m.g.Paths()
	if c.rec.PID == 0 {
		return nil
	}
	return m.g.Add(c.rec.PID)
}

// descriptors opens what the stage is given and numbers it.
func (c *creation) descriptors(now bool) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	c.sync = os.NewFile(uintptr(pair[0]), "sync")
	theirs := os.NewFile(uintptr(pair[1]), "sync")
	c.files = append(c.files, stdio(c.o.Stdio)...)
	c.give(theirs, true)
	if !now {
		l, err := c.dir.listen()
		if err != nil {
			return err
		}
		c.plan.StartFD = c.give(l, true)
	}
	if c.plan.ConsoleFD, err = c.console(); err != nil {
		return err
	}
	if err := c.seccompListener(); err != nil {
		return err
	}
	if c.ns, err = openNamespaces(c.spec); err != nil {
		return err
	}
	c.plan.Unshare = c.ns.unshare
	for _, flag := range c.ns.order {
		c.plan.Join = append(c.plan.Join, plan.Join{FD: c.give(c.ns.join[flag], false), Flag: flag})
	}
	if err := c.mappedMounts(); err != nil {
		return err
	}
	if p := c.plan.Process; p != nil && len(c.o.ExtraFiles) > 0 {
		p.KeepBase, p.KeepFDs = uint32(len(c.files)), uint32(len(c.o.ExtraFiles))
		c.files = append(c.files, c.o.ExtraFiles...)
	}
	return nil
}

// give adds a descriptor of the stage and returns its number there.
func (c *creation) give(f *os.File, own bool) int32 {
	c.files = append(c.files, f)
	if own {
		c.own = append(c.own, f)
	}
	return int32(len(c.files) - 1)
}

func (c *creation) console() (int32, error) {
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

func (c *creation) seccompListener() error {
	path := listenerPath(c.spec.Linux)
	if path == "" || c.plan.Process == nil {
		return nil
	}
	s, err := connectUnix("linux.seccomp.listenerPath", path)
	if err != nil {
		return err
	}
	c.plan.SeccompFD = c.give(s, true)
	return nil
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
		r.Log.Warn("linux.seccomp: no architecture has these system calls, their rules are ignored", "names", prog.Unknown)
	}
	return nil
}

// seccompState is what the seccomp agent is told with the listener
// (config-linux.md, "The Container Process State").
func (rec *record) seccompState(s *specs.LinuxSeccomp, pid int, st specs.ContainerState) []byte {
	b, _ := json.Marshal(specs.ContainerProcessState{ // plain data
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: s.ListenerMetadata,
		State: specs.State{Version: specs.Version, ID: rec.ID, Status: st, Pid: rec.PID, Bundle: rec.Bundle, Annotations: rec.Annot},
	})
	return b
}

// spawn starts the stage and records its process.
func (c *creation) spawn() error {
	defer func() {
		for _, f := range c.own {
			f.Close()
		}
		c.ns.close()
	}()
	exe, err := c.r.self()
	if err != nil {
		return err
	}
	defer exe.Close()
	req := spawn.Request{
		Exe: exe, Args: []string{"hvctl-oci", stage.Verb}, Env: stageEnv(), Files: c.files, Flags: uintptr(c.ns.clone), JoinPID: c.ns.pid,
	}
	if c.ns.clone&unix.CLONE_NEWUSER != 0 {
		req.UIDs, req.GIDs = idMaps(c.spec.Linux.UIDMappings), idMaps(c.spec.Linux.GIDMappings)
	}
	if c.group != nil {
		if req.Cgroup, err = c.group.File(); err != nil {
			return err
		}
		if req.Cgroup != nil {
			defer req.Cgroup.Close()
		}
	}
	if c.rec.PID, err = c.clone(&req); err != nil {
		return fmt.Errorf("start the container's first process: %w", err)
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
	return c.dir.save(c.rec)
}

// clone is by package syscall, but where a user namespace is joined.
func (c *creation) clone(req *spawn.Request) (int, error) {
	if c.ns.user == nil {
		return spawn.Start(req)
	}
	return spawn.Join(&spawn.JoinRequest{Request: *req, UserNS: c.ns.user})
}

// self is the binary to execute in a container.
func (r *Runtime) self() (*os.File, error) {
	if r.Sealed {
		return os.Open("/proc/self/exe")
	}
	return seal.Self()
}

// runtimeHooks runs prestart and createRuntime.
func (c *creation) runtimeHooks(ctx context.Context) error {
	h := c.spec.Hooks
	// What these two see differs for the sake of prestart's users: before there
	// was "creating", they saw "created".
	if err := runHooks(ctx, "prestart", h.Prestart, c.rec.hookState(Created)); err != nil {
		return err
	}
	return runHooks(ctx, "createRuntime", h.CreateRuntime, c.rec.hookState(Creating))
}

func runHooks(ctx context.Context, name string, hooks []specs.Hook, state []byte) error {
	plans := hookPlans(hooks)
	for i := range plans {
		if err := stage.RunHook(ctx, &plans[i], state); err != nil {
			return fmt.Errorf("hooks.%s[%d] %s: %w", name, i, plans[i].Path, err)
		}
	}
	return nil
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
