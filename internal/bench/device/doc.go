// Package device measures what a guest gets of one device, a disk or a network
// interface, in our VM and in a peer's: `hvctl bench io` and `hvctl bench net`. The
// guest is a kernel and one process (cmd/hvprobe), which reports on the console;
// what it cost the host is counted while the guest is idle, before and after.
package device
