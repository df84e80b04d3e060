// Package io measures disk I/O of a guest: hvctl's virtio-blk beside QEMU's
// with an iothread and io_uring, the same kernel, the same probe (cmd/hvprobe)
// as the guest's only process, the same disk. Beside the time of an operation
// stand the VM exits that it took. See docs/bench-method.md.
package io
