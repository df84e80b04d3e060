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
	in       *container
	pid      int
	terminal bool
	io       *stdio
	exit     *guestproto.Exit // set when ended and flushed
	gone     bool             // reaped: pid must not be used any more
}

// manager owns the containers, their processes, and the machine's end.
type manager struct {
	cfg    config
	dial   dialer
	host   *server
	beat   beat
	loaded <-chan struct{}         // closed when the kernel modules are in
	group  func() (*cgroup, error) // waits for the workload's group

	mu         sync.Mutex // also held over fork and reap, so that no pid is reused in between
	ran        bool
	run        guestproto.Run
	pod        bool // by Pod, not by Run
	containers map[string]*container
	cgroup     *cgroup // of all containers
	procs      map[string]*process
	byPID      map[int]*process
	ended      []string
	stopping   bool
	frozen     bool
	filled     *root             // has the writable layer that came before Run; nil: none did
	plugged    map[string]string // device files of disks that came later, by serial number

	forked chan struct{}  // one token after each fork, for the reaper
	idle   sync.WaitGroup // processes not yet reported
}

func newManager(cfg config, d dialer) *manager {
	return &manager{
		cfg: cfg, dial: d, procs: map[string]*process{}, byPID: map[int]*process{}, containers: map[string]*container{}, plugged: map[string]string{},
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
	m.begin(r.Clock, r.Entropy)
	c := &container{init: r.Init, masked: r.MaskedPaths, readonly: r.ReadonlyPaths}
	m.containers[c.id] = c
	if err := m.prepare(c); err != nil {
		return guestproto.Started{}, err
	}
	creds, err := c.credentials(&r.Process)
	if err != nil {
		return guestproto.Started{}, err
	}
	return m.launch(c, &r.Process, creds, true)
}

// begin sets what every machine is told first, and waits for the kernel's modules.
func (m *manager) begin(clock int64, entropy []byte) {
	if len(entropy) != 0 {
		m.warn("seed the random generator", reseed(entropy))
	}
	if clock != 0 {
		m.warn("set the clock", setClock(clock))
	}
	<-m.loaded
}

// prepare builds everything around the workload's first process.
func (m *manager) prepare(c *container) error {
	// The network needs the kernel's time, the root the disk's: side by side.
	var netErr error
	var wg sync.WaitGroup
	wg.Go(func() { netErr = setupNetwork(m.run.Network) })
	var err error
	c.root, err = buildRoot(m.cfg.base, m.cfg.lower, m.run.Root, m.filled)
	if err == nil {
		err = c.root.populate(m.run.Disks, "")
	}
	wg.Wait()
	if err != nil {
		return err
	}
	if netErr != nil {
		return netErr
	}
	for _, mnt := range m.run.Mounts {
		if err := c.root.extra(mnt); err != nil {
			return err
		}
	}
	if err := m.nameMachine(); err != nil {
		return err
	}
	if m.run.Root.Share == "" {
		if err := writeNames(c.root.tree, m.run.Hostname, m.run.Network); err != nil {
			return err
		}
	}
	if m.cgroup, err = m.group(); err != nil {
		m.warn("make the workload's cgroup", err)
	}
	c.cgroup = m.cgroup
	if err := c.cgroup.limitPIDs(m.run.PIDs); err != nil {
		return err
	}
	return c.finish(m.run.Process.Spec.Cwd, m.run.Root.ReadOnly)
}

// nameMachine sets the hostname and the kernel's settings.
func (m *manager) nameMachine() error {
	if m.run.Hostname != "" {
		if err := unix.Sethostname([]byte(m.run.Hostname)); err != nil {
			return fmt.Errorf("set the hostname to %q: %w", m.run.Hostname, err)
		}
	}
	return setSysctls(m.run.Sysctl)
}

// exec serves Exec.
func (m *manager) exec(p guestproto.Process) (guestproto.Started, error) {
	var none guestproto.Started
	m.mu.Lock()
	c, err := m.living(p.Container)
	m.mu.Unlock()
	if err != nil {
		return none, err
	}
	creds, err := c.credentials(&p) // which takes as long as the root's files take
	if err != nil {
		return none, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.living(p.Container); err != nil {
		return none, err
	}
	return m.launch(c, &p, creds, false)
}

// living is a container whose first process runs. Preconditions: m.mu is held.
func (m *manager) living(id string) (*container, error) {
	c := m.containers[id]
	switch {
	// Of one that has ended before anybody looked there are no namespaces.
	case c != nil && c.first != nil && !c.first.gone && c.ns != nil && !c.removed && !m.stopping:
		return c, nil
	case id != "":
		return nil, stateErr("container %s is not running", guestproto.CleanText(id))
	}
	return nil, stateErr("the workload is not running")
}

// launch starts a process. Preconditions: m.mu is held.
func (m *manager) launch(ct *container, p *guestproto.Process, c etcfiles.Creds, first bool) (guestproto.Started, error) {
	var none guestproto.Started
	if err := guestproto.CheckID(p.ID); err != nil {
		return none, err
	}
	if m.procs[p.ID] != nil {
		return none, stateErr("process id %s is taken", p.ID)
	}
	p.Spec.Env = etcfiles.Environment(p.Spec.Env, c, m.run.Hostname, p.Spec.Terminal)
	io, err := newStdio(p, c, ct.root.path(), m.dial, m.host.online)
	if err != nil {
		return none, err
	}
	l := launch{spec: &p.Spec, filter: p.Filter, creds: c, stdio: io.child, cgroup: ct.cgroup}
	var flags uintptr
	var pidNS *os.File
	if first {
		l.root, l.masked, l.readonly, l.hidden = ct.root.path(), ct.masked, ct.readonly, m.hiddenFrom(ct)
		flags = unix.CLONE_NEWNS
		if !ct.init {
			flags |= unix.CLONE_NEWPID
		}
		if io.master != nil {
			m.warn("make /dev/console", ct.console())
		}
	} else {
		l.join, pidNS = ct.ns, ct.ns.pid
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
	pr := &process{id: p.ID, in: ct, pid: pid, terminal: p.Spec.Terminal, io: io}
	m.procs[p.ID], m.byPID[pid] = pr, pr
	m.idle.Add(1)
	ct.procs.Add(1)
	if first {
		ct.first = pr
		ct.ns, err = openNamespaces(pid, ct.init)
		m.warn("open the workload's namespaces", err)
	}
	io.run()
	select {
	case m.forked <- struct{}{}:
	default:
	}
	return guestproto.Started{PID: pid}, nil
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
			e.OOM = e.Signal == int(unix.SIGKILL) && pr.in.cgroup.newOOM()
		} else {
			e.Code = ws.ExitStatus()
		}
		if pr == pr.in.first && pr.in.init {
			pr.in.cgroup.kill()
		}
		go m.finish(pr, e)
	}
}

// finish delivers a process's last output, then its exit, then, for the first
// one of Run, ends the machine.
func (m *manager) finish(pr *process, e guestproto.Exit) {
	pr.io.finish()
	m.mu.Lock()
	pr.exit = &e
	m.ended = append(m.ended, pr.id)
	if len(m.ended) > keepEnded {
		delete(m.procs, m.ended[0])
		m.ended = m.ended[1:]
	}
	end := pr == pr.in.first && !m.pod && (!m.run.KeepAlive || m.stopping)
	m.mu.Unlock()
	m.host.notify(guestproto.NotifyExit, e)
	m.idle.Done()
	pr.in.procs.Done()
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
	var first *process
	if c := m.containers[""]; c != nil {
		first = c.first
	}
	again := m.stopping
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
