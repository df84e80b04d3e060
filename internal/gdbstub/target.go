package gdbstub

import "errors"

// Target is the machine that is debugged. A Session calls one method at a time.
// CPUs are numbered from 0. Registers and memory are asked for only while the
// guest stands still.
type Target interface {
	CPUs() int
	// Regs and SetRegs access the registers of a CPU.
	Regs(cpu int) (Regs, error)
	SetRegs(cpu int, r Regs) error
	// ReadMemory copies what the CPU has at a virtual address into p and returns
	// how much of it was there; an error when nothing was. Breakpoints that
	// SetBreak put there are not seen.
	ReadMemory(cpu int, addr uint64, p []byte) (int, error)
	// WriteMemory writes all of p or says why not; part of it may have been
	// written then.
	WriteMemory(cpu int, addr uint64, p []byte) error
	// SetBreak adds a breakpoint, for all CPUs; cpu says whose addresses count.
	// ErrUnsupported: there is no such kind; ErrFull: no room for one more.
	SetBreak(cpu int, b Break) error
	// ClearBreak removes one; it is no error when there is none.
	ClearBreak(b Break) error
	// Resume lets the CPUs with run[cpu] run, and of these, those with step[cpu]
	// for one instruction. Both have CPUs() elements. What makes the guest stop
	// arrives in Stops.
	Resume(run, step []bool) error
	// Halt stops every CPU. Nothing arrives in Stops for it.
	Halt() error
	// Stops tells why the guest stands still, or that it has ended.
	Stops() <-chan Stop
	// Detach removes every breakpoint and lets the guest run, for good.
	Detach() error
}

// Errors that a Target tells apart.
var (
	ErrUnsupported = errors.New("not supported")
	ErrFull        = errors.New("no room for another breakpoint")
)

// BreakKind is what a breakpoint waits for. The values are the protocol's.
type BreakKind int

// The kinds.
const (
	SoftBreak   BreakKind = 0 // an instruction is replaced
	HardBreak   BreakKind = 1
	WriteWatch  BreakKind = 2
	ReadWatch   BreakKind = 3
	AccessWatch BreakKind = 4
)

// Break is one breakpoint.
type Break struct {
	Kind BreakKind
	Addr uint64 // virtual
	Size uint64 // bytes that are watched; of an instruction it means nothing
}

// Stop says why the guest stands still.
type Stop struct {
	CPU    int
	Signal Signal
	// Break is the breakpoint that was met; nil for a step and for what is none.
	Break *Break
	// Ended says that there is no guest any more.
	Ended bool
}

// Signal is how the protocol names the reason of a stop (gdb's numbers).
type Signal byte

// The signals that a machine has use for.
const (
	SigInt  Signal = 2 // the user asked
	SigTrap Signal = 5 // a breakpoint or a step
	SigAbrt Signal = 6 // the guest has crashed
)
