// Package blk is the virtio block device (VIRTIO 1.2, §5.2) over a raw image
// file or block device.
//
// Requests are served in place, one after the other: data moves between the
// image and guest memory by preadv and pwritev, with no copy of ours in
// between. What a request does is decided by a copy of its header, never by
// bytes the guest can still change. A request that asks for what cannot be is
// answered with an error status; only a chain without room for a status stops
// the device.
//
// Durability: the device has a write-back cache, the host's page cache. FLUSH
// is offered, and completes after fdatasync. For a driver that did not accept
// FLUSH everything is made durable before it completes (§5.2.6.2).
//
// Writers lock the image against everybody, readers against writers.
package blk
