// Package vsock is the virtio socket device (VIRTIO 1.2, §5.10): stream
// connections between the guest and the process that owns the VM, with no
// network in between. Listen accepts what the guest dials to the host (CID 2),
// Dial reaches a port the guest listens on; *Conn is a net.Conn that can close
// its two directions apart, *Listener a net.Listener. A Bridge opens the same
// to other programs on the host through unix sockets.
//
// Vhost is the same device with the kernel in the owner's place: guest and host
// meet as AF_VSOCK sockets (docs/adr/0007-vhost-vsock.md).
//
// Not here: datagrams; and sequenced packets, a feature that only Vhost offers,
// where the kernel does.
//
// Flow control goes both ways by credit (§5.10.6.3). Each connection promises
// the guest a window, and all windows together are bounded, so a guest never
// makes the host buffer more than maxPromised bytes; one that sends beyond its
// window loses that connection and nothing else. Bounded as well are the
// connections, those nobody accepted yet, and the resets that wait for the
// driver's receive buffers: when there are too many of these, the transmit
// queue rests until the driver has taken some (§5.10.6.1).
//
// Data is copied once in each direction: from the writer's slice into the
// guest's chain by the receive queue's worker, and from the guest's chain into
// the connection's buffer by the transmit queue's.
package vsock
