package microvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/confine"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/lazy"
	"github.com/hvctl/hvctl/virtio/balloon"
	"github.com/hvctl/hvctl/virtio/fs"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// guestCID is the vsock address of every guest: each VM has its own switch, so
// they need not differ.
const guestCID = 3

const (
	// readyTimeout bounds the time from kernel entry to the agent's first
	// word. Emulated hosts take half a minute with a distribution's kernel.
	readyTimeout = 3 * time.Minute
	// debugTimeout is the same for a guest that somebody may hold.
	debugTimeout = 24 * time.Hour
	// offTimeout is how long a guest may take to sync its disks and power
	// off after its workload has ended.
	offTimeout = 10 * time.Second
	// endTimeout is how long the machine, and then its devices, may take to
	// stop. Only host I/O that does not return takes longer.
	endTimeout = 10 * time.Second
	// lastWords is how long the agent's session may go on after a guest that did not
	// power off.
	lastWords = time.Second
	// clockTimeout is how long Resume waits for the guest to set its clock.
	clockTimeout = 2 * time.Second
)

// VM is one microVM. It is a workload.Runtime. Before Start has returned, and
// after the machine has ended, everything but Wait and Close is refused with
// workload.ErrNotRunning.
type VM struct {
	cfg   *workload.Config
	dir   string
	log   *slog.Logger
	times *timeline
	execs atomic.Uint64
	live  atomic.Pointer[guest]    // set when the machine runs
	doubt atomic.Pointer[handover] // set while somebody else may run the guest
	sent  atomic.Pointer[sending]  // the latest migration away from here
	lost  atomic.Pointer[error]    // why its memory cannot be had any more; nil: it can
	left  atomic.Bool              // the guest was handed over
	gap   atomic.Pointer[gap]      // of the latest guest that was offered
	// suspended: the workload's processes are stopped by the agent.
	suspended atomic.Bool
	moved     atomic.Pointer[string] // where the guest was sent; nil: it is here

	confine  func(confine.Policy) (confine.Report, error) // nil: this process is not the VM's alone
	confined atomic.Pointer[Confined]                     // nil before that

	// What Start made so far; only Start and Close use these.
	console *console
	image   *os.File     // the root file system, held so that it is not removed
	layer   *os.File     // what the writable layer is filled from; nil: nothing
	gdb     net.Listener // nil: none, or served
	serial  *relay       // nil when nobody is attached to the serial port
	net     *hostnet.Attachment
	removal *hostnet.Removal // of the tap; nil: it is noticed by itself
	vsock   *vsock.Device
	balloon *balloon.Device       // nil: none
	shared  []guestproto.Mount    // of the host's directories
	shares  map[string]*fs.Device // them, by where the guest has mounted them
	pod     bool                  // see Pod
	podFS   *fs.Device            // of a pod
	machine *machine.Machine
	filler  *lazy.Filler                // of its memory; nil: that was there from the start
	fills   atomic.Pointer[lazy.Filler] // filler, for everybody
	begun   bool                        // the workload was started
	learnt  bool                        // cfg came with the guest
	heir    bool                        // the guest was another owner's of this instance

	inherited inheritance // what another owner has handed over; nil: nothing

	closing sync.Once
	err     error

	endTimeout time.Duration // endTimeout, but for tests

	host Host
}

// Host is what a VM uses of the host when it cannot reach for it itself, since
// it runs in a container (package ocivm). The zero value opens everything.
type Host struct {
	KVM *os.File            // /dev/kvm
	Net *hostnet.Attachment // its network, whatever the configuration says
}

// NewInside is New for a VM that runs in a container. It owns h.Net.
func NewInside(cfg *workload.Config, dir string, log *slog.Logger, h Host) *VM {
	v := New(cfg, dir, log)
	v.host, v.net = h, h.Net
	return v
}

// guest is a machine that was launched. Its fields do not change, but for end,
// which is set before ended is closed.
type guest struct {
	machine  *machine.Machine
	session  *agent.Session // nil without agent
	ctx      context.Context
	stop     context.CancelCauseFunc // ends machine.Run and the session
	serving  chan struct{}           // closed when the session has ended
	ended    chan struct{}           // closed when the machine has stopped
	debugged chan struct{}           // closed when no debugger can touch it any more
	stuck    chan struct{}           // closed when it was to end and did not in time
	end      machine.End
}

var (
	errKilled = errors.New("killed")
	errClosed = errors.New("instance closed")
	// errStuck says that host I/O of a device does not return. What it uses
	// cannot be freed; it goes with the process.
	errStuck = errors.New("the VM did not stop in time: a read or write of one of its disks does not return on the host")
)

// New prepares the runtime of the instance whose state directory is dir. It
// starts and holds nothing yet.
func New(cfg *workload.Config, dir string, log *slog.Logger) *VM {
	return &VM{cfg: cfg, dir: dir, log: log, times: &timeline{}, endTimeout: endTimeout}
}

// running returns the guest while it runs.
func (v *VM) running() (*guest, error) {
	g := v.live.Load()
	if g == nil {
		return nil, workload.ErrNotRunning
	}
	select {
	case <-g.ended:
		return nil, workload.ErrNotRunning
	default:
		return g, nil
	}
}

// withAgent returns the guest while it runs, if it has an agent.
func (v *VM) withAgent() (*guest, error) {
	g, err := v.running()
	if err == nil && v.doubt.Load() != nil {
		return nil, errDoubt
	}
	if err == nil && g.session == nil {
		err = fmt.Errorf("%w: the guest was booted without hvctl's agent", workload.ErrUnsupported)
	}
	return g, err
}

// Start builds the machine, lets it boot and starts the first process in it.
// ctx bounds all of that. On error what was made is kept until Close.
func (v *VM) Start(ctx context.Context, io workload.Stdio) (workload.Process, error) {
	v.times.mark("vmm start")
	if v.cfg.VM.Receive != nil {
		return v.receive(ctx, io)
	}
	if v.cfg.VM.Restore != nil {
		return v.restore(ctx, io)
	}
	if err := v.build(ctx, io); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := v.enter(); err != nil {
		return nil, err
	}
	if v.cfg.VM.Raw {
		return v.startRaw(io), nil
	}
	g, err := v.converse()
	if err != nil {
		return nil, err
	}
	p, err := v.boot(ctx, g, io)
	if err != nil {
		return nil, v.explain(g, err)
	}
	v.begun = true
	return p, nil
}

// build makes everything up to the parked machine.
func (v *VM) build(ctx context.Context, io workload.Stdio) error {
	c, err := v.surround(ctx, io)
	if err != nil {
		return err
	}
	if name := v.cfg.Rootfs.Layer; name != "" {
		if v.layer, err = os.Open(name); err != nil {
			return fmt.Errorf("writable layer: %w", err)
		}
	}
	c.HugePages, c.CPUModel = v.cfg.VM.HugePages, machine.CPUModel(v.cfg.VM.CPU)
	c.Kernel, c.KernelCache = v.cfg.VM.Kernel, v.cfg.VM.KernelCache
	c.Initrds, c.Cmdline = initrds(v.cfg.VM.Initrd), v.cfg.VM.Cmdline
	if v.gdb, err = v.listenGDB(); err != nil {
		return err
	}
	v.machine, err = machine.New(c)
	return err
}

// surround makes everything around the machine and describes it: what a machine
// that boots and one that is restored have in common.
func (v *VM) surround(ctx context.Context, io workload.Stdio) (c machine.Config, err error) {
	if v.console, err = newConsole(filepath.Join(v.dir, "console.log"), v.heir); err != nil {
		return c, err
	}
	if err := v.holdImage(); err != nil {
		return c, err
	}
	if err := v.attachNetwork(ctx); err != nil {
		return c, err
	}
	devs, err := v.devices()
	return machine.Config{
		CPUs:        vcpus(v.cfg.Res.CPUs),
		MaxCPUs:     maxVCPUs(v.cfg),
		MemoryBytes: v.cfg.Res.MemoryBytes, MaxMemoryBytes: v.cfg.VM.MaxMemoryBytes,
		KVM:       v.host.KVM,
		Transport: machine.Transport(v.cfg.VM.Transport),
		Devices:   v.inherited.equip(devs),
		SerialOut: v.serialOut(io.Out),
		CPUThread: promised(v.cfg.Res.Deadline),
		Watchdog:  v.cfg.VM.Watchdog != "",
		Ending:    v.atEnd,
		Mark:      v.times.mark,
		Log:       v.log,
	}, err
}

// launch lets the machine run; done is called when it has stopped.
func (v *VM) launch(session *agent.Session, done func()) *guest {
	g := v.newGuest(session)
	g.machine = v.machine
	v.serveGDB(g, v.gdb)
	v.gdb = nil // its server closes it
	v.followRemoval(g)
	go func() {
		defer close(g.ended)
		g.end = g.machine.Run(g.ctx)
		done()
		if g.session != nil && g.end.Reason != machine.PowerOff {
			select {
			case <-g.serving: // it has read what had arrived
			case <-time.After(lastWords): // nobody inside closes its connections any more
			}
			g.stop(errEnded)
		}
	}()
	v.live.Store(g)
	return g
}

func (v *VM) newGuest(session *agent.Session) *guest {
	g := &guest{session: session, ended: make(chan struct{}), stuck: make(chan struct{}), serving: make(chan struct{})}
	g.ctx, g.stop = context.WithCancelCause(context.Background())
	context.AfterFunc(g.ctx, func() {
		select {
		case <-g.ended:
		case <-time.After(v.endTimeout):
			close(g.stuck)
		}
	})
	return g
}

// converse starts the machine and the session with its agent.
func (v *VM) converse() (*guest, error) {
	t, err := newGuestSockets(v.vsock)
	if err != nil {
		return nil, err
	}
	session := agent.New(t, agent.Options{Log: v.log})
	g := v.launch(session, t.close) // then the session reads what has arrived, and ends
	go func() {
		defer close(g.serving)
		if err := session.Serve(g.ctx); err != nil && g.ctx.Err() == nil {
			v.log.Debug("guest agent session ended", "err", err)
		}
	}()
	return g, nil
}

// errEnded is why boot gives up on a machine that has ended.
var errEnded = errors.New("the guest ended before its workload started")

// boot waits for the agent and gives it the workload.
func (v *VM) boot(ctx context.Context, g *guest, io workload.Stdio) (workload.Process, error) {
	ctx, over := v.untilEnded(ctx, g)
	defer over(nil)
	hello, err := v.ready(ctx, g)
	if err != nil {
		return nil, err
	}
	v.times.mark("guest agent")
	v.times.guest("guest init", time.Duration(hello.BootNs))
	run, err := v.request()
	if err != nil {
		return nil, err
	}
	if err := v.fill(ctx, g.session, run.Root.Upper); err != nil {
		return nil, fmt.Errorf("writable layer: %w", err)
	}
	p, err := g.session.Run(ctx, run, agent.IO{Stdin: io.In, Stdout: v.times.first("first output", io.Out), Stderr: io.Err})
	if err != nil {
		return nil, startError(cause(ctx, err))
	}
	v.times.mark("workload started")
	return &process{p: p, vm: v, guest: g}, nil
}

// untilEnded is ctx, but that a machine that ends ends it, too.
func (v *VM) untilEnded(ctx context.Context, g *guest) (context.Context, context.CancelCauseFunc) {
	ctx, over := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-g.ended:
			over(errEnded)
		case <-ctx.Done():
		}
	}()
	return ctx, over
}

func (v *VM) ready(ctx context.Context, g *guest) (guestproto.Hello, error) {
	limit := readyTimeout
	if v.cfg.VM.GDB != "" {
		limit = debugTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSilent)
	defer cancel()
	hello, err := g.session.Ready(ctx)
	return hello, cause(ctx, err)
}

// errSilent is why boot gives up on a guest that never gets to its agent.
var errSilent = fmt.Errorf("the guest's agent did not answer within %v", readyTimeout)

// cause returns why ctx ended, if it did, for that says more than err.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// holdImage marks the root file system image as in use for as long as the VM
// lives: the image store does not remove a file somebody holds a shared lock
// on (images.Rootfs.Open).
func (v *VM) holdImage() (err error) {
	if v.cfg.VM.Raw || v.cfg.Rootfs.Dir != "" {
		return nil
	}
	if v.image, err = os.Open(v.cfg.Rootfs.ImagePath); err != nil {
		return fmt.Errorf("root file system image of %s: %w", v.cfg.Image.Ref, err)
	}
	// The store holds the lock for an instant at most.
	return os.NewSyscallError("flock", unix.Flock(int(v.image.Fd()), unix.LOCK_SH))
}
