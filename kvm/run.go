package kvm

import (
	"errors"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// runPage is the fixed head of struct kvm_run, which kernel and VMM share
// through the vCPU's mapping.
type runPage struct {
	requestInterruptWindow     uint8
	immediateExit              uint8
	padding1                   [6]uint8
	exitReason                 uint32
	readyForInterruptInjection uint8
	ifFlag                     uint8
	flags                      uint16
	cr8                        uint64
	apicBase                   uint64
	exit                       [32]uint64 // union: what the exit reason says
}

// minRunMapping is the least a vCPU's mapping must have: the kvm_run page and
// the page for port I/O data behind it.
const minRunMapping = 2 * 4096

// The two request bytes at the start of kvm_run as bits of one little-endian
// 32-bit word: Go has atomic operations on words only.
const (
	ctlInterruptWindow = 1 << 0
	ctlImmediateExit   = 1 << 8
)

const runFlagSMM = 1 << 0 // KVM_RUN_X86_SMM

func (r *runPage) control() *uint32 {
	// SAFETY: the word covers request_interrupt_window, immediate_exit and two
	// bytes of padding; the page is page aligned.
	return (*uint32)(unsafe.Pointer(r))
}

// Run enters the guest (KVM_RUN) and returns why it came back. First it
// completes the previous exit: the data of an IO or MMIO read must be in place.
//
// ExitIntr (a signal, or SetImmediateExit) and ExitAgain (an application
// processor that was woken and is still not runnable) are normal results; the
// caller handles what it was kicked for, and runs again. An error means that
// the vCPU cannot go on; it is an *os.SyscallError.
//
// What ServeCauses has told it to serve does not bring it back.
//
// With immediate exit set, Run completes a pending exit and returns ExitIntr
// without entering the guest: that is how to get at clean register state.
func (v *VCPU) Run() (ExitReason, error) {
	n, err := v.fd.acquire()
	if err != nil {
		return ExitUnknown, err
	}
	errno := unix.Errno(enter(uintptr(n), v.run, v.causes))
	reason := ExitReason(v.run.exitReason)
	v.fd.release()
	switch errno {
	case 0:
		return reason, nil
	case unix.EINTR:
		return ExitIntr, nil
	case unix.EAGAIN:
		return ExitAgain, nil
	case unix.EFAULT, unix.EHWPOISON:
		if reason == ExitMemoryFault {
			return reason, nil
		}
	}
	return reason, os.NewSyscallError(reqRun.name, errno)
}

// SetImmediateExit says whether Run returns ExitIntr at once. It is atomic and
// may be called from any goroutine; after Close it does nothing. To kick a
// vCPU, set it and then signal the vCPU's thread; that thread clears it once it
// has seen why it was kicked.
func (v *VCPU) SetImmediateExit(on bool) { v.setControl(ctlImmediateExit, on) }

// SetRequestInterruptWindow asks for ExitIRQWindowOpen as soon as Interrupt can
// deliver. It is for VMs without an in-kernel local APIC.
func (v *VCPU) SetRequestInterruptWindow(on bool) { v.setControl(ctlInterruptWindow, on) }

func (v *VCPU) setControl(bit uint32, on bool) {
	if _, err := v.fd.acquire(); err != nil {
		return
	}
	defer v.fd.release()
	if on {
		atomic.OrUint32(v.run.control(), bit)
	} else {
		atomic.AndUint32(v.run.control(), ^bit)
	}
}

// ImmediateExit reports whether SetImmediateExit is on.
func (v *VCPU) ImmediateExit() bool {
	if _, err := v.fd.acquire(); err != nil {
		return false
	}
	defer v.fd.release()
	return atomic.LoadUint32(v.run.control())&ctlImmediateExit != 0
}

// RunState is what kvm_run says of the vCPU besides the exit.
type RunState struct {
	ReadyForInterruptInjection bool // Interrupt would succeed
	IF                         bool // the guest takes interrupts
	SMM                        bool // in system management mode
	CR8, APICBase              uint64
}

// RunState returns the vCPU's state at the last exit, without a system call.
// CR8 and APICBase are right only without an in-kernel local APIC.
func (v *VCPU) RunState() RunState {
	r := v.run
	return RunState{
		ReadyForInterruptInjection: r.readyForInterruptInjection != 0,
		IF:                         r.ifFlag != 0,
		SMM:                        r.flags&runFlagSMM != 0,
		CR8:                        r.cr8,
		APICBase:                   r.apicBase,
	}
}

// CompleteExit finishes a pending IO or MMIO exit without entering the guest,
// so that registers and events are what the guest will see next. Call it before
// saving state. It leaves immediate exit off: as after ExitIntr, look afterwards
// at what the vCPU may have been kicked for.
func (v *VCPU) CompleteExit() error {
	v.SetImmediateExit(true)
	r, err := v.Run()
	v.SetImmediateExit(false)
	if err == nil && r != ExitIntr {
		// A string instruction that needs another round: the caller has to
		// serve that one first.
		err = &PendingExitError{Reason: r}
	}
	return err
}

// PendingExitError is returned by CompleteExit when completing one exit led to
// the next: serve that and complete again.
type PendingExitError struct {
	Reason ExitReason
}

// Error implements error.
func (e *PendingExitError) Error() string { return "another exit is pending: " + e.Reason.String() }

// IsClosed reports whether err says that the System, VM or VCPU was closed.
func IsClosed(err error) bool { return errors.Is(err, os.ErrClosed) }
