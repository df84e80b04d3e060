// Package confine takes from a process that has set itself up everything that it
// does not need any more, for good: capabilities, the files of the host
// (Landlock), system calls (seccomp), and the ways to get any of them back
// (no_new_privs). It is meant for the VMM: whoever finds a hole in a device of
// ours then holds a process that can reach what belongs to its VM.
//
// All of it holds for every thread of the process, those to come included. A process
// that was started in a mount namespace of its own gets a root directory with nothing
// but the files that are left in it (Policy.Starter); the paths of these stay what they
// were. With that it can go on as another user (Policy.User), who owns what is to be
// changed of them; what else it needs, it has opened before.
//
// What the process had open stays usable; files, sockets and KVM descriptors are
// the capabilities that are left. An io_uring would be a way around the filter:
// none can be made afterwards, and those of package uring do nothing but read,
// write and sync the files registered with them.
//
// A system call that the filter does not list fails with EPERM, one that is newer
// than the list with ENOSYS, and the kernel's log names it, where its
// kernel.seccomp.actions_logged has errno. It does not kill: a call that was
// forgotten in the list should cost what needs it, not a guest.
//
// Who may import it: package microvm.
package confine
