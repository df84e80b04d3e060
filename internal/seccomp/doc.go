// Package seccomp turns OCI's linux.seccomp into a filter of the kernel and
// loads it, in pure Go.
//
//	p, err := seccomp.Compile(spec.Linux.Seccomp)   // slow: some 100 µs, can be cached
//	fd, err := p.Load()                             // on the thread that will exec
//
// A filter is a classic BPF program over struct seccomp_data (seccomp(2),
// Documentation/userspace-api/seccomp_filter.rst). [Program.Filter] is its
// plain bytes: whatever can call seccomp(2) can load it, and a cache can keep
// it. System calls are found by binary search over ranges of numbers, in some
// eight comparisons, and conditions on arguments are tested only where there
// are any.
//
// What a profile means, where the specification leaves it open:
//
//   - The first rule that fits decides; rules with conditions go before rules
//     without, whatever their order. Two conditions on one argument in one rule
//     are alternatives (one of them is enough), as they are to every runtime.
//   - A system call that is newer than all that the profile names fails with
//     ENOSYS, where the default action is to fail or to kill: a libc then falls
//     back to what it did before, as on an older kernel.
//   - Names that this architecture does not have are passed over: profiles are
//     written for all of them. Program.Unknown lists those that none has that we
//     know.
//   - The thread's own architecture is always filtered. Calls by an architecture
//     that the profile does not list kill the process.
//   - On i386, rules without conditions for socket or IPC calls hold for
//     socketcall(2) and ipc(2), too.
//
// Who may import it: both backends. Preconditions of loading (no_new_privs or
// CAP_SYS_ADMIN) are the caller's business.
package seccomp

//go:generate go run mksyscalls.go
