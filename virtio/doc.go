// Package virtio is the device side of VIRTIO 1.2: status machine, feature
// negotiation, split virtqueues, one worker per queue, pause and restore. It
// does all that is the same for every device, so that a device is only its
// requests, and all that is the same for every transport, so that virtio/mmio
// and virtio/pci are only registers.
//
// A request's way: the driver rings the doorbell, KVM signals the queue's
// eventfd, the queue's worker wakes and calls Device.HandleQueue, which Pops
// validated chains, works on guest memory through memory.Vec and Pushes them
// back; the worker then raises the interrupt if the driver wants one.
//
// Devices import this package, memory, internal/state and internal/metrics,
// never kvm: every device test runs without /dev/kvm (see virtiotest).
//
// Everything that comes from the driver is hostile. A driver's mistake is an
// error wrapping ErrGuest; the answer is always DEVICE_NEEDS_RESET (§2.1.2), a
// counter and a rate-limited log line, never a panic or an exit.
package virtio
