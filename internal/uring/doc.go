// Package uring is the part of the kernel's io_uring that disk I/O needs: a
// ring of submissions and one of completions, shared with the kernel, so that
// many requests cost one system call. It is written to Linux 5.11 (probed, see
// New) and knows reads, writes and fdatasync.
//
// A Ring belongs to one goroutine. What a request names (buffers, vectors,
// descriptors) has to stay in place until its completion was seen: vectors on
// the Go heap do while they are reachable, which is the caller's to see to.
//
// Layouts are those of include/uapi/linux/io_uring.h.
package uring
