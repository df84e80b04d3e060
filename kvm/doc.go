// Package kvm is a typed mirror of the Linux KVM ABI for x86-64 hosts: the
// ioctls of /dev/kvm, of VMs, of vCPUs and of in-kernel devices, and the
// kvm_run page through which a vCPU reports its exits.
//
// It is a mirror and no more. It knows no guest memory types, no devices and
// no policy: which MSRs to save, which CPUID leaves to show and when to kick a
// vCPU is decided by its callers (packages vcpu, internal/irq and
// internal/machine, the only ones that import it). Structures that carry guest
// state are plain structs of fixed-width exported fields, so that a snapshot
// can hold them as they are. References are to Documentation/virt/kvm/api.rst
// of Linux 6.18; comments give the C name of everything that is mirrored.
//
// # Ownership
//
// System, VM, VCPU, Device, DirtyRing and StatsFD own their descriptors and
// mappings, all close-on-exec. Nothing is released by the garbage collector:
// call Close. Close is idempotent and never waits: a call that is under way in
// another goroutine finishes first and then releases the descriptor, so a
// number is never reused under a running ioctl. After Close every method
// returns an error wrapping os.ErrClosed. A VM lives in the kernel until its
// VM, VCPU and Device descriptors are all closed; closing the System early is
// fine.
//
// # Threads
//
//   - System and VM methods may be called from any goroutine, concurrently.
//     KVM serializes what it must.
//   - VCPU methods belong to the vCPU's thread: the OS thread that created the
//     VCPU and runs it, locked with runtime.LockOSThread. KVM binds per-task
//     state to the thread that runs a vCPU, and any other vCPU ioctl blocks
//     (unkillably) for as long as KVM_RUN is under way. Two methods are
//     exceptions and may be called from anywhere: SetImmediateExit and Close.
//   - The views that IO, MMIO and the other exit accessors return point into
//     the kvm_run page. They are valid on the vCPU's thread until the next Run
//     or Close.
//   - To stop a running vCPU call SetImmediateExit(true) and then send its
//     thread a signal (tgkill, SIGURG): the flag catches a vCPU that is about
//     to enter the guest, the signal one that is inside.
//
// # EINTR
//
// The Go runtime preempts goroutines with signals, so any ioctl that sleeps
// interruptibly can return EINTR for no reason of ours. The policy is part of
// each ioctl's definition in ioctls.go:
//
//	ioctl                          on EINTR   why
//	KVM_RUN                        returned   as ExitIntr: it is how a kick arrives; EAGAIN likewise is ExitAgain
//	KVM_CREATE_VM                  retried    registering the MMU notifier gives up when a signal is pending
//	KVM_CREATE_PIT2                retried    creates a kernel thread, which a signal can interrupt
//	KVM_CREATE_VCPU                retried    takes locks; nothing has been created when it reports EINTR
//	KVM_CREATE_DEVICE              retried    the same
//	KVM_PRE_FAULT_MEMORY           retried    stops at a signal; the kernel has advanced gpa and size in the argument
//	KVM_RESET_DIRTY_RINGS          avoided    made with signals blocked: a signal would cut it short (see ResetDirtyRings)
//	all others                     retried    they sleep killably at most, so only a dying process sees EINTR
//
// KVM_RUN is made with unix.Syscall: with RawSyscall the Go scheduler cannot
// take the thread's P back while the guest runs, and its preemption signals
// break most runs.
//
// # Errors
//
// A failed ioctl is an *os.SyscallError that carries the ioctl's C name, so
// errors.Is(err, unix.EINVAL) works. When the reason is that the host's KVM
// lacks a capability the error wraps ErrNotSupported and, as a *CapError,
// names it. KVM_GET_MSRS and KVM_SET_MSRS stop at the first MSR that KVM
// refuses: that is an *MSRError, which names the MSR.
package kvm
