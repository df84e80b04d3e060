// Package blk is the virtio block device (VIRTIO 1.2, §5.2) over a raw image
// file or block device.
//
// Data moves between the image and guest memory with no copy of ours in between:
// by preadv and pwritev, a request after the other (EnginePlain), or by io_uring,
// as many at a time as there are (EngineURing). Each queue has a worker and a ring
// of its own. What a request does is decided by a copy of its header, never by
// bytes the guest can still change. A request that asks for what cannot be is
// answered with an error status; only a chain without room for a status stops
// the device.
//
// Durability: the device has a write-back cache: the host's page cache, or with
// CacheNone what the host's disk has. FLUSH is offered, and completes after fdatasync. For a driver that did not accept
// FLUSH everything is made durable before it completes (§5.2.6.2).
//
// A disk with limits leaves what it may not serve yet in the ring and has itself
// called again: nothing waits for it, neither a pause nor a vCPU.
//
// Writers lock the image against everybody, readers against writers.
package blk
