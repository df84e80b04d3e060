// Package rng is the entropy device (VIRTIO 1.2 §5.4): it fills the driver's
// buffers from the host's random source.
package rng
