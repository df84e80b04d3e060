// Command hvinit is PID 1 of an hvctl microVM.
//
// It comes in the initramfs, loads the few modules the kernel lacks, dials the
// host over vsock and waits for one Run message (package guestproto) that says
// everything about the workload. It builds the workload's root (read-only image
// below, writable layer above, container-like /dev, /proc and /sys), brings up
// the network, and starts the first process in PID and mount namespaces of its
// own: the workload sees itself as PID 1 in the image's root, as in a
// container, and hvinit stays outside, forwards the standard streams, serves
// exec, signals and statistics, reaps, reports exits and powers off.
//
// It is unpacked and started on every boot, so it is kept small and short: no
// second Go start between hvinit and the workload (fork_unsafe.go runs a
// prepared list of system calls in the child instead), no net/http, no os/exec.
//
// Usage:
//
//	hvinit [-transport vsock|unix:DIR] [-lower DIR] [-base DIR] [-cgroup NAME]
//
// All flags but the defaults are for tests, which run the same binary in fresh
// namespaces of the machine itself, over unix sockets, with a directory in
// place of the image.
package main
