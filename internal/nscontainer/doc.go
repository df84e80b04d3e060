// Package nscontainer is the container backend's runtime: one container, made
// by package container, and the host resources it holds, behind
// workload.Runtime. It is linked into the process that owns the container
// (cmd/hvctl-ctr), which is started in a mount namespace of its own: the root
// file system is mounted there, and goes with the last process that sees it,
// whatever becomes of the owner.
//
// The root is the image's read-only EROFS file, the one that VMs have as a
// disk, with a tmpfs above it for what is written: the same layers as in a VM,
// charged to the container's memory.
//
// What the command line does before it starts the owner is in
// nscontainer/prepare.
package nscontainer
