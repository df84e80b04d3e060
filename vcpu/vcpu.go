package vcpu

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/kvm"
)

// ErrStopped is returned by requests to a vCPU whose thread has ended.
var ErrStopped = errors.New("vCPU is stopped")

// Bus answers the accesses of one address space; see bus.Bus. Methods are
// called on vCPU threads.
type Bus interface {
	Read(addr uint64, data []byte) bool
	Write(addr uint64, data []byte) bool
}

// Event is why a vCPU left the guest for good.
type Event struct {
	Index int
	Kind  EventKind
	// System is the type of a SystemEvent (kvm.SystemEvent*).
	System uint32
	// Err says what went wrong for a Failure.
	Err error
}

// EventKind names the events.
type EventKind int

// After any of these the vCPU stays parked: Resume no longer has an effect,
// for what runs after a shut-down CPU is not the guest any more.
const (
	TripleFault EventKind = iota + 1 // the guest's CPU shut down
	SystemEvent                      // the guest asked KVM for reset, shutdown or crash
	Failure                          // KVM could not run the guest
)

// Options say how to make one vCPU.
type Options struct {
	Index     int // also the APIC id
	PIO, MMIO Bus // neither may be nil
	// Causes are registers that need no Bus; see kvm.VCPU.ServeCauses. May be nil.
	Causes *kvm.CauseRegisters
	// Thread runs first of all on the vCPU's thread, which only ever runs this
	// vCPU: it may say how the host schedules it. nil is fine.
	Thread func() error
	// CPUID, when not nil, decides what the guest is told. It runs on the vCPU's
	// thread, and its result is set before Setup: KVM judges the rest by it.
	CPUID func(*kvm.VCPU) ([]kvm.CPUIDEntry, error)
	// Setup runs once on the vCPU's thread before anything else: MSRs, registers.
	Setup func(*kvm.VCPU) error
	// Debug judges a debug exit (kvm.VCPU.Debug) on the vCPU's thread, may use c
	// and must not call back into the VCPU. When it returns true the vCPU is
	// parked, and Resume lets it run on. nil: such an exit is a Failure.
	Debug func(c *kvm.VCPU, e kvm.DebugExit) (stop bool)
	// Woken is called on the vCPU's thread when another one of the guest has begun to
	// start it, or has woken it for nothing; it must be quick and not call back into
	// the VCPU. nil is fine.
	Woken func()
	// Event is called at most once, on the vCPU's thread, and must not block
	// or call back into the VCPU. nil is fine.
	Event func(Event)
}

// VCPU is one virtual CPU. All methods may be called from any goroutine but
// the vCPU's own.
type VCPU struct {
	o        Options
	cpu      *kvm.VCPU
	tid      int
	pending  atomic.Int32 // requests sent or about to be
	requests chan request
	ended    chan struct{}
	counters Counters
	tracer   atomic.Pointer[Tracer] // nil: nobody looks at the exits
	told     []kvm.CPUIDEntry       // set in KVM; its own copy may say more (PVM); the thread's
}

type request struct {
	do   func(*kvm.VCPU) error
	next phase
	done chan error
}

type phase int

const (
	same phase = iota
	parked
	running
	over // parked for good: an event was reported
	stopped
)

// Start makes the vCPU's thread and the vCPU on it, and runs Setup. The vCPU
// is parked when Start returns.
func Start(vm *kvm.VM, o Options) (*VCPU, error) {
	v := &VCPU{o: o, requests: make(chan request), ended: make(chan struct{})}
	ready := make(chan error, 1)
	go v.thread(vm, ready)
	if err := <-ready; err != nil {
		<-v.ended
		return nil, err
	}
	return v, nil
}

// thread is the whole life of the vCPU. It never unlocks its OS thread, so
// the thread dies with it.
func (v *VCPU) thread(vm *kvm.VM, ready chan<- error) {
	runtime.LockOSThread()
	defer close(v.ended)
	v.tid = unix.Gettid()
	if v.o.Event == nil {
		v.o.Event = func(Event) {}
	}
	var err error
	if v.o.Thread != nil {
		if err = v.o.Thread(); err != nil {
			ready <- fmt.Errorf("vCPU %d: %w", v.o.Index, err)
			return
		}
	}
	if v.cpu, err = vm.CreateVCPU(v.o.Index); err != nil {
		ready <- err
		return
	}
	defer v.cpu.Close() // nothing is left to do when that fails
	if err := v.setup(); err != nil {
		ready <- fmt.Errorf("vCPU %d: %w", v.o.Index, err)
		return
	}
	v.cpu.ServeCauses(v.o.Causes, &v.counters.Causes)
	ready <- nil
	for st := parked; st != stopped; {
		if st == running && v.pending.Load() == 0 {
			st = v.step()
			continue
		}
		st = v.serve(<-v.requests, st)
	}
}

func (v *VCPU) setup() error {
	if v.o.CPUID != nil {
		entries, err := v.o.CPUID(v.cpu)
		if err != nil {
			return err
		}
		if err := v.tell(entries); err != nil {
			return err
		}
	}
	if v.o.Setup == nil {
		return nil
	}
	return v.o.Setup(v.cpu)
}

// tell sets CPUID and remembers it. It runs on the vCPU's thread.
func (v *VCPU) tell(entries []kvm.CPUIDEntry) error {
	if err := v.cpu.SetCPUID(entries); err != nil {
		return err
	}
	v.told = entries
	return nil
}

// serve answers one request and returns the next phase.
func (v *VCPU) serve(r request, st phase) phase {
	v.pending.Add(-1)
	if st == running && (r.do != nil || r.next == parked) {
		st = v.settle()
	}
	var err error
	if r.do != nil {
		err = r.do(v.cpu)
	}
	if r.next == stopped || r.next != same && st != over {
		st = r.next
	}
	r.done <- err
	return st
}

func (v *VCPU) call(next phase, do func(*kvm.VCPU) error) error {
	r := request{do: do, next: next, done: make(chan error, 1)}
	v.pending.Add(1)
	v.kick()
	select {
	case v.requests <- r:
		return <-r.done
	case <-v.ended:
		return fmt.Errorf("vCPU %d: %w", v.o.Index, ErrStopped)
	}
}

// kick makes the thread look at its requests: immediate_exit stops one that
// is about to enter the guest, the signal one that is inside. SIGURG is the
// one the Go runtime expects to be stray.
func (v *VCPU) kick() {
	v.cpu.SetImmediateExit(true)
	_ = unix.Tgkill(os.Getpid(), v.tid, unix.SIGURG) // fails only when the thread has ended
}

// Index returns the vCPU's number.
func (v *VCPU) Index() int { return v.o.Index }

// TID returns the vCPU's host thread, for accounting and pinning.
func (v *VCPU) TID() int { return v.tid }

// Resume lets the vCPU run, unless it has reported an Event.
func (v *VCPU) Resume() error { return v.call(running, nil) }

// Park stops the vCPU between two instructions with no I/O half done, so that
// its registers can be saved. It returns when the vCPU no longer runs. An
// access that a bus is still answering is waited for.
func (v *VCPU) Park() error { return v.call(parked, nil) }

// Do runs fn on the vCPU's thread, between two guest instructions, and
// returns its error. The vCPU runs on afterwards if it ran before.
func (v *VCPU) Do(fn func(*kvm.VCPU) error) error { return v.call(same, fn) }

// Told returns what the guest was told by CPUID.
func (v *VCPU) Told() (entries []kvm.CPUIDEntry, err error) {
	err = v.Do(func(*kvm.VCPU) error { entries = slices.Clone(v.told); return nil })
	return entries, err
}

// Stop ends the thread and closes the vCPU, in whatever state it is. It may be
// called more than once, and concurrently; each call returns when it is done.
func (v *VCPU) Stop() {
	if err := v.call(stopped, nil); !errors.Is(err, ErrStopped) {
		<-v.ended
	}
}

// Counters returns the exits by reason. They go on counting.
func (v *VCPU) Counters() *Counters { return &v.counters }
