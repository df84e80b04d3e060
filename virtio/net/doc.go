// Package net is the network device (VIRTIO 1.2 §5.1): Ethernet frames between
// the driver's rings and a Backend, usually a tap.
//
// Every frame carries a 12-byte header, in the rings as on the backend, so
// frames go between the tap and guest memory by readv and writev without a
// copy of ours, and checksums and segmentation are left to whoever can do them
// (the offloads that driver and backend have in common).
//
// The queues are receive 0, transmit 0, receive 1, ... and last the control
// queue. A receive worker that has buffers waits for frames, not for the
// doorbell; without buffers it waits for the doorbell, and frames wait in the
// backend.
//
// What the driver sends is passed on or dropped and counted; no frame stops
// the device. The package imports virtio, memory and internal/state only.
package net
