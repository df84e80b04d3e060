// Package machine assembles a virtual machine from its parts (KVM, RAM, vCPUs,
// interrupt controller, virtio devices, boot structures) and owns its life:
// New builds everything and starts nothing, Run runs it until the guest ends.
//
// It is where packages kvm and memory meet. It knows nothing of images,
// workloads or agents: `hvctl boot` and package microvm stand on it alike.
package machine
