// Package microvm is the VM backend's runtime: one machine, the guest agent in
// it, and the host resources they hold, behind workload.Runtime. It is linked
// into the process that owns the VM (cmd/hvctl-vmm), whose memory is counted:
// images, kernels and command-line code stay out. What the command line does
// before it starts that process is in microvm/prepare.
package microvm
