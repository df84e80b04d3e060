// Package vhost is a typed mirror of what a virtio socket device needs of the
// kernel's vhost interface (Linux include/uapi/linux/vhost.h and
// vhost_types.h): the virtqueues of a guest are served by a thread of the
// kernel, which reads and writes guest memory through this process's mapping of
// it. Doorbells (KVM ioeventfds) and interrupts (irqfds) then need not pass
// through this process at all.
//
// It speaks the kernel's numbers, as package kvm does, and knows neither guest
// memory nor virtio: virtio/vsock joins them. Nothing is checked here that the
// kernel checks; that rings lie in guest memory is the caller's to see to.
//
// The kernel's side of a socket device is drivers/vhost/vsock.c, what all
// vhost devices share drivers/vhost/vhost.c.
package vhost
