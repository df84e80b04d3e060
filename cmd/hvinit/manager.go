package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// keepEnded is how many ended processes a reconnecting host is told about.
const keepEnded = 64

// ownPIDNS is hvinit's own PID namespace.
var ownPIDNS *os.File

// process is one that the host asked for.
type process struct {
	id       string
	pid      int
	terminal bool
	io       *stdio
	exit     *guestproto.Exit // set when ended and flushed
	gone     bool             // reaped: pid must not be used any more
}

// manager owns the workload: its root, its processes, and the machine's end.
type manager struct {
	cfg    config
	dial   dialer
	host   *server
	beat   beat
	loaded <-chan struct{}         // closed when the kernel modules are in
	group  func() (*cgroup, error) // waits for the workload's group

	mu       sync.Mutex // also held over fork and reap, so that no pid is reused in between
	ran      bool
	run      guestproto.Run
	root     *root
	cgroup   *cgroup
	ns       *namespaces
	procs    map[string]*process
	byPID    map[int]*process
	ended    []string
	first    *process
	stopping bool
	frozen   bool
	plugged  map[string]string // device files of disks that came later, by serial number

	forked chan struct{}  // one token after each fork, for the reaper
	idle   sync.WaitGroup // processes not yet reported
}

func newManager(cfg config, d dialer) *manager {
	return &manager{
		cfg: cfg, dial: d, procs: map[string]*process{}, byPID: map[int]*process{}, plugged: map[string]string{},
		forked: make(chan struct{}, 1),
	}
}

// rpcError is an error with a JSON-RPC code of its own.
type rpcError struct {
	code int
	msg  string
}

func (e *rpcError) Error() string { return e.msg }

func stateErr(format string, args ...any) error {
	return &rpcError{guestproto.CodeState, fmt.Sprintf(format, args...)}
}

// start serves Run.
func (m *manager) start(r guestproto.Run) (guestproto.Started, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ran {
		return guestproto.Started{}, stateErr("run was called before")
	}
	m.ran, m.run = true, r
	if len(r.Entropy) != 0 {
		m.warn("seed the random generator", reseed(r.Entropy))
	}
	if r.Clock != 0 {
		m.warn("set the clock", setClock(r.Clock))
	}
	<-m.loaded
	if err := m.prepare(); err != nil {
		return guestproto.Started{}, err
	}
	return m.launch(&r.Process, true)
}

// prepare builds everything around the first process.
func (m *manager) prepare() error {
	// The network needs the kernel's time, the root the disk's: side by side.
	var netErr error
	var wg sync.WaitGroup
	wg.Go(func() { netErr = setupNetwork(m.run.Network) })
	var err error
	m.root, err = buildRoot(m.cfg.base, m.cfg.lower, m.run.Root)
	if err == nil {
		err = m.root.populate(m.run.Disks)
	}
	wg.Wait()
	if err != nil {
		return err
	}
	if netErr != nil {
		return netErr
	}
	for _, mnt := range m.run.Mounts {
		if err := m.root.extra(mnt); err != nil {
			return err
		}
	}
	if m.run.Hostname != "" {
		if err := unix.Sethostname([]byte(m.run.Hostname)); err != nil {
			return fmt.Errorf("set the hostname to %q: %w", m.run.Hostname, err)
		}
	}
	if m.run.Root.Share == "" {
		if err := writeNames(m.root.tree, m.run.Hostname, m.run.Network); err != nil {
			return err
		}
	}
	for key, value := range m.run.Sysctl {
		if err := setSysctl(key, value); err != nil {
			return err
		}
	}
	m.cgroup, err = m.group()
	m.warn("make the workload's cgroup", err)
	if err := m.cgroup.limitPIDs(m.run.PIDs); err != nil {
		return err
	}
	if m.run.Process.Spec.Cwd != "" {
		if dir, err := m.root.tree.MkdirAll(m.run.Process.Spec.Cwd, 0o755); err == nil {
			dir.Close()
		}
	}
	if m.run.Root.ReadOnly {
		return mount("", m.root.path(), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

// exec serves Exec.
func (m *manager) exec(p guestproto.Process) (guestproto.Started, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first == nil || m.first.gone || m.stopping {
		return guestproto.Started{}, stateErr("the workload is not running")
	}
	return m.launch(&p, false)
}

// launch starts a process. Preconditions: m.mu is held.
func (m *manager) launch(p *guestproto.Process, first bool) (guestproto.Started, error) {
	var none guestproto.Started
	if err := guestproto.CheckID(p.ID); err != nil {
		return none, err
	}
	if m.procs[p.ID] != nil {
		return none, stateErr("process id %s is taken", p.ID)
	}
	c, err := m.credentials(p)
	if err != nil {
		return none, err
	}
	p.Spec.Env = etcfiles.Environment(p.Spec.Env, c, m.run.Hostname, p.Spec.Terminal)
	io, err := newStdio(p, c, m.root.path(), m.dial, m.host.online)
	if err != nil {
		return none, err
	}
	l := launch{spec: &p.Spec, filter: p.Filter, creds: c, stdio: io.child, cgroup: m.cgroup}
	var flags uintptr
	var pidNS *os.File
	if first {
		l.root, l.masked, l.readonly = m.root.path(), m.run.MaskedPaths, m.run.ReadonlyPaths
		flags = unix.CLONE_NEWNS
		if !m.run.Init {
			flags |= unix.CLONE_NEWPID
		}
		if io.master != nil {
			m.warn("make /dev/console", m.console())
		}
	} else {
		l.join, pidNS = m.ns, m.ns.pid
	}
	pl, err := l.plan()
	pid := 0
	if err == nil {
		pid, err = pl.fork(flags, pidNS)
	}
	if err != nil {
		io.closeChild()
		io.closeOwn()
		return none, explain(err, &p.Spec)
	}
	pr := &process{id: p.ID, pid: pid, terminal: p.Spec.Terminal, io: io}
	m.procs[p.ID], m.byPID[pid] = pr, pr
	m.idle.Add(1)
	if first {
		m.first = pr
		m.ns, err = openNamespaces(pid, m.run.Init)
		m.warn("open the workload's namespaces", err)
	}
	io.run()
	select {
	case m.forked <- struct{}{}:
	default:
	}
	return guestproto.Started{PID: pid}, nil
}

func (m *manager) credentials(p *guestproto.Process) (etcfiles.Creds, error) {
	passwd, err := m.root.tree.ReadFile("/etc/passwd", etcfiles.MaxUserFile)
	if err != nil {
		return etcfiles.Creds{}, err
	}
	group, err := m.root.tree.ReadFile("/etc/group", etcfiles.MaxUserFile)
	if err != nil {
		return etcfiles.Creds{}, err
	}
	c, err := etcfiles.Lookup(p.User, p.Spec.User, passwd, group)
	if err != nil {
		return c, &startError{125, err.Error()}
	}
	return c, nil
}

// console binds the first process's terminal to /dev/console, as containers
// with a terminal have it.
func (m *manager) console() error {
	node := m.root.path() + "/dev/console"
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		return err
	}
	return unix.Mount(m.root.path()+"/dev/pts/0", node, "", unix.MS_BIND, "")
}

func openNamespaces(pid int, shared bool) (*namespaces, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/ns/"
	n := new(namespaces)
	var err error
	if n.mnt, err = os.Open(dir + "mnt"); err != nil {
		return nil, err
	}
	if !shared {
		if n.pid, err = os.Open(dir + "pid"); err != nil {
			n.mnt.Close()
			return nil, err
		}
	}
	n.cgroup, _ = os.Open(dir + "cgroup")
	return n, nil
}

// reap waits for children for good: those of the manager and, as PID 1, orphans.
func (m *manager) reap() {
	for {
		// Look without reaping: the pid stays taken until m.mu is held.
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		switch err {
		case nil:
			m.collect()
		case unix.EINTR:
		default: // ECHILD: no children at all
			<-m.forked
		}
	}
}

func (m *manager) collect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		pr := m.byPID[pid]
		if pr == nil {
			continue
		}
		delete(m.byPID, pid)
		pr.gone = true
		e := guestproto.Exit{ID: pr.id}
		if ws.Signaled() {
			e.Signal = int(ws.Signal())
			e.OOM = e.Signal == int(unix.SIGKILL) && m.cgroup.newOOM()
		} else {
			e.Code = ws.ExitStatus()
		}
		first := pr == m.first
		if first && m.run.Init {
			m.cgroup.kill()
		}
		go m.finish(pr, e, first)
	}
}

// finish delivers a process's last output, then its exit, then, for the first
// one, ends the machine.
func (m *manager) finish(pr *process, e guestproto.Exit, first bool) {
	pr.io.finish()
	m.mu.Lock()
	pr.exit = &e
	m.ended = append(m.ended, pr.id)
	if len(m.ended) > keepEnded {
		delete(m.procs, m.ended[0])
		m.ended = m.ended[1:]
	}
	end := first && (!m.run.KeepAlive || m.stopping)
	m.mu.Unlock()
	m.host.notify(guestproto.NotifyExit, e)
	m.idle.Done()
	if end {
		m.powerOff()
	}
}

// signal serves Signal.
func (m *manager) signal(s guestproto.Signal) error {
	if s.Signal < 0 || s.Signal > guestproto.MaxSignal {
		return stateErr("signal %d does not exist", s.Signal)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.All {
		return m.cgroup.signal(unix.Signal(s.Signal))
	}
	pr, err := m.find(s.ID)
	if err != nil {
		return err
	}
	if pr.gone {
		return &rpcError{guestproto.CodeNoProcess, "process " + s.ID + " has exited"}
	}
	return unix.Kill(pr.pid, unix.Signal(s.Signal))
}

// find returns a process by id. Preconditions: m.mu is held.
func (m *manager) find(id string) (*process, error) {
	pr := m.procs[id]
	if pr == nil {
		return nil, &rpcError{guestproto.CodeNoProcess, "no such process: " + guestproto.CleanText(id)}
	}
	return pr, nil
}

func (m *manager) withIO(id string, fn func(*stdio)) error {
	m.mu.Lock()
	pr, err := m.find(id)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	fn(pr.io)
	return nil
}

// shutdown serves Shutdown; the machine ends some time after it returned.
func (m *manager) shutdown(s guestproto.Shutdown) error {
	sig := unix.Signal(s.Signal)
	if sig == 0 {
		sig = unix.SIGTERM
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	first, again := m.first, m.stopping
	m.stopping = true
	if first == nil || first.gone {
		if !again && (first == nil || m.run.KeepAlive) {
			go m.powerOff()
		}
		return nil
	}
	time.AfterFunc(time.Duration(s.TimeoutMs)*time.Millisecond, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if !first.gone {
			_ = unix.Kill(first.pid, unix.SIGKILL)
		}
	})
	return unix.Kill(first.pid, sig)
}

// hello describes the state for a host that connects.
func (m *manager) hello() guestproto.Hello {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := guestproto.Hello{Version: guestproto.Version, Kernel: kernelRelease(), BootNs: m.cfg.bootNs, Running: m.ran}
	for _, pr := range m.procs {
		h.Processes = append(h.Processes, guestproto.ProcessState{ID: pr.id, Terminal: pr.terminal, Exit: pr.exit})
	}
	return h
}

// warn tells the host about something that failed but does not stop the start.
func (m *manager) warn(what string, err error) {
	if err != nil {
		m.host.log("warn", what+": "+err.Error())
	}
}
