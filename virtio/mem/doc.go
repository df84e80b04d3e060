// Package mem is the memory device (VIRTIO 1.3 §5.15): a running guest is given
// memory, and gives it back, in blocks of a region above its RAM. The host says how
// much it is to have (Device.Request), the driver asks for blocks until it has that
// much, or returns them until it has no more.
//
// The blocks are those of a memory.Pluggable, which is what knows who has which: a
// block that the guest lacks is inaccessible to it, to the kernel's vhost devices and
// to our own. A driver that does not accept UNPLUGGED_INACCESSIBLE might read there, and
// is refused.
//
// A reset of the device leaves what is plugged in, as §5.15.5 has it: the guest may be
// running in it.
package mem
