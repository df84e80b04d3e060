package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

const (
	// signalGrace is what the stop signal has to be delivered in when the
	// instance has less time than that to end.
	signalGrace = 5 * time.Second
	// shutdownGrace is how long the gentlest way of the backend may take
	// after the stop signal did not work.
	shutdownGrace = 5 * time.Second
	// sessionGrace is how long exec sessions may take to end after the
	// instance did.
	sessionGrace = 2 * time.Second
	// answerGrace is how long the last answers may take to be written.
	answerGrace = 2 * time.Second
)

// owner is the state of Run.
type owner struct {
	inst *instance.Instance
	cfg  *workload.Config
	log  *slog.Logger
	out  *hub // of the first process
	bus  broker

	group *cgroup.Group // this process lives in it; nil: none

	rt   workload.Runtime
	proc workload.Process // set with mu held, before started is closed

	updating sync.Mutex // one change of limits at a time; before mu
	freezing sync.Mutex // held while the status changes between running and paused; before mu
	mu       sync.Mutex
	st       workload.State
	sessions map[string]*session
	size     *control.ResizeRequest // asked for before the process existed
	exit     workload.Exit

	srv    *server
	handed handed

	started chan struct{} // the first process exists
	ended   chan struct{} // it has ended
	cleaned chan struct{} // and everything is cleaned up; exit is set
}

// Run owns the instance in dir until it has ended. newRuntime builds the
// backend's runtime from its configuration. Run takes over the process:
// descriptors named by the handover in the environment, SIGTERM (stop the
// instance), and standard error for its log.
//
// The error says why the instance could not be run at all; how it ended is in
// its state. When ctx ends the instance is stopped.
func Run(ctx context.Context, dir string, newRuntime func(*workload.Config) (workload.Runtime, error)) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	h, err := instance.ReadHandover()
	if err != nil {
		return err
	}
	if h.Link != 0 {
		return succeed(ctx, dir, h, newRuntime)
	}
	ready := newReporter(h.Ready)
	defer ready.close()
	o, first, err := open(dir, h)
	if err != nil {
		ready.fail(err)
		return err
	}
	return o.run(ctx, newRuntime, first, h.StdinOnce, ready)
}

// NewLogger is what an owner logs with: to standard error, which is owner.log,
// from the level its starter asked for. The file is bounded: some of what is
// logged is the guest's doing.
func NewLogger() *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(os.Getenv(instance.LogLevelEnv))) // INFO it stays
	return slog.New(slog.NewTextHandler(&boundedLog{f: os.Stderr, max: maxOwnerLog}, &slog.HandlerOptions{Level: l}))
}

// open takes possession of the instance.
func open(dir string, h instance.Handover) (*owner, *control.Peer, error) {
	inst, err := instance.OpenDir(dir)
	if err != nil {
		return nil, nil, err
	}
	if h.Lock != 0 {
		err = inst.AdoptLock(os.NewFile(uintptr(h.Lock), "lock"))
	} else {
		err = inst.TryLock()
	}
	if err != nil {
		return nil, nil, err
	}
	st, err := inst.State()
	if err != nil {
		return nil, nil, err
	}
	if st.Status != workload.Created {
		return nil, nil, fmt.Errorf("%s is %s and cannot be started again", inst.Name(), st.Status)
	}
	logw, err := inst.OpenLog()
	if err != nil {
		return nil, nil, fmt.Errorf("log: %w", err)
	}
	o := newOwner(inst, st)
	o.out = newHub(logw, o.cfg.OpenStdin, o.log)
	o.group = o.openGroup()
	if h.Attach == 0 {
		return o, nil, nil
	}
	f := os.NewFile(uintptr(h.Attach), "attach")
	defer f.Close() // FileConn has its own copy
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, nil, fmt.Errorf("attached client: %w", err)
	}
	return o, control.NewPeer(conn, nil), nil
}

func newOwner(inst *instance.Instance, st workload.State) *owner {
	return &owner{
		inst: inst, cfg: inst.Config(), st: st,
		log:      NewLogger(),
		sessions: map[string]*session{},
		handed:   newHanded(),
		started:  make(chan struct{}), ended: make(chan struct{}), cleaned: make(chan struct{}),
	}
}

func (o *owner) run(ctx context.Context, newRuntime func(*workload.Config) (workload.Runtime, error), first *control.Peer, stdinOnce bool, ready *reporter) error {
	srv, err := o.serve()
	if err == nil {
		if first != nil {
			go o.attach(first, control.AttachRequest{Stdin: true, StdinOnce: stdinOnce})
			o.out.add(first) // before the process can write its first byte
		}
		err = o.start(ctx, newRuntime)
	}
	if err != nil {
		return o.abort(err, first, srv, ready)
	}
	ready.ok()
	o.last(ctx)
	return nil
}

// last waits for the end of the instance, or of this process's part in it.
func (o *owner) last(ctx context.Context) {
	exit := o.wait(ctx)
	if o.handed.over() {
		o.leave()
		return
	}
	o.finish(exit)
	o.out.finish(exit)
	o.srv.shutdown()
}

// start brings up the runtime and its first process.
func (o *owner) start(ctx context.Context, newRuntime func(*workload.Config) (workload.Runtime, error)) error {
	rt, err := newRuntime(o.cfg)
	if err != nil {
		return err
	}
	proc, err := rt.Start(ctx, o.out.stdio(o.cfg.Spec.Process.Terminal))
	if err != nil {
		if cerr := rt.Close(); cerr != nil {
			o.log.Warn("cleaning up after a start that did not work", "err", cerr)
		}
		return err
	}
	o.begin(ctx, rt, proc, time.Now())
	o.event(control.EventStart, nil)
	return nil
}

// begin is the moment from which on the instance runs, here.
func (o *owner) begin(ctx context.Context, rt workload.Runtime, proc workload.Process, started time.Time) {
	o.mu.Lock()
	o.rt, o.proc = rt, proc
	o.reconfigure(rt)
	o.st.Status, o.st.PID, o.st.Started = workload.Running, os.Getpid(), started
	if n, ok := rt.(workload.NetworkReporter); ok {
		o.st.IP, o.st.Ports = n.NetworkStatus()
	}
	err := o.inst.WriteState(o.st)
	size := o.size
	close(o.started)
	o.mu.Unlock()
	if err != nil {
		o.log.Error("recording the state", "err", err) // it runs; say so and go on
	}
	if size != nil {
		_ = proc.Resize(ctx, size.Columns, size.Rows) // gone already, or no terminal
	}
}

// abort records why the instance never ran and tells the starter.
func (o *owner) abort(err error, first *control.Peer, srv *server, ready *reporter) error {
	exit := workload.Exit{Code: exitCode(err), Err: err.Error(), At: time.Now()}
	o.finish(exit)
	ready.fail(err)
	if first != nil {
		first.Fail(err)
	}
	o.out.drop()
	if srv != nil {
		srv.shutdown()
	}
	return err
}

// wait returns how the first process ended. When ctx ends first, it is
// stopped.
func (o *owner) wait(ctx context.Context) workload.Exit {
	stop := context.AfterFunc(ctx, func() {
		if err := o.ladder(context.WithoutCancel(ctx), control.StopRequest{}); err != nil {
			o.log.Error("stop", "err", err)
		}
	})
	defer stop()
	exit, err := o.proc.Wait(context.Background())
	if err != nil {
		exit = workload.Exit{Code: exitCode(err), Err: err.Error()}
	}
	if exit.At.IsZero() {
		exit.At = time.Now()
	}
	close(o.ended)
	return exit
}

// endSessions waits for the exec sessions, which have nothing to run in any
// more, and gives up on those that do not notice.
func (o *owner) endSessions() {
	o.mu.Lock()
	var left []*session
	for _, s := range o.sessions {
		left = append(left, s)
	}
	o.mu.Unlock()
	t := time.NewTimer(sessionGrace)
	defer t.Stop()
	for _, s := range left {
		select {
		case <-s.done:
		case <-t.C:
			return
		}
	}
}

// finish leaves nothing of the instance behind but its record.
func (o *owner) finish(exit workload.Exit) {
	o.out.closeStdin()
	if o.rt != nil {
		if err := o.rt.Close(); err != nil {
			o.log.Warn("cleaning up", "err", err)
		}
	}
	o.endSessions()
	o.leaveGroup()
	o.out.closeLog()
	o.mu.Lock()
	o.exit = exit
	o.st.Status, o.st.Exit, o.st.Finished, o.st.PID = workload.Exited, &exit, exit.At, 0
	st := o.st
	o.mu.Unlock()
	if o.cfg.AutoRemove {
		if err := o.inst.Remove(); err != nil {
			o.log.Error("removing the instance", "err", err)
		}
	} else if err := o.inst.WriteState(st); err != nil {
		o.log.Error("recording the exit", "err", err)
	}
	o.inst.Unlock()
	if exit.OOM {
		o.event(control.EventOOM, nil)
	}
	o.event(control.EventExit, map[string]string{"exitCode": fmt.Sprint(exit.Code)})
	close(o.cleaned)
	o.bus.close()
}

func exitCode(err error) int {
	if se, ok := errors.AsType[*workload.StartError](err); ok {
		return se.Code
	}
	return workload.ExitOwnFailure
}

// reporter writes the one line to the ready pipe.
type reporter struct{ f *os.File }

func newReporter(fd int) *reporter {
	if fd == 0 {
		return &reporter{}
	}
	unix.CloseOnExec(fd)
	return &reporter{f: os.NewFile(uintptr(fd), "ready")}
}

func (r *reporter) ok() { r.send(instance.Ready{PID: os.Getpid()}) }

func (r *reporter) fail(err error) {
	r.send(instance.Ready{PID: os.Getpid(), Error: err.Error(), Code: exitCode(err)})
}

func (r *reporter) send(v instance.Ready) {
	if r.f == nil {
		return
	}
	b, _ := json.Marshal(v)           // a struct of two strings and an integer
	_, _ = r.f.Write(append(b, '\n')) // the starter is gone: it will read the state
	r.close()
}

func (r *reporter) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}
