// Package program says what the processes of a container do, as programs of
// steps (package steps): the first one sets up the container it is in, waits
// to be started and executes the user's program (Create); further ones join it
// (Enter). None of our own code is executed in a container, and no Go runtime
// waits there.
//
// All that is known beforehand comes in a plan (package plan); all that the
// container's owner may have arranged, names and mounts above all, is found
// out by the steps themselves, and used by the descriptor it was found with:
//
//   - Every name inside the root file system is resolved by the kernel below the
//     root's descriptor (openat2(2), RESOLVE_IN_ROOT), so that neither ".." nor
//     a symbolic link, even one exchanged meanwhile, leads outside.
//   - What is mounted is attached to the descriptor of the mount point.
//   - What must reach the kernel's /proc is written to one that nothing can have
//     been mounted on.
//
// The order is security's. Privileged things first, then what takes privileges
// away, what would limit us last; and the directory is verified to be inside
// the container before any of the container's code runs.
package program
