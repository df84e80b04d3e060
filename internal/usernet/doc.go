// Package usernet is a network that needs no privileges: a TCP/IP stack in a
// process (gVisor's), which takes the Ethernet frames of one instance and
// carries its connections on as sockets of the host's. Program hvctl-net serves
// it, one process for each instance, so that neither the VMM nor the owner of a
// container carries the stack's weight or its risks.
//
//	instance ── frames ── filter ── stack ── policy ── sockets of the host
//	            ports of the host ── hostnet.Bound ──┘
//
// The filter lets only ARP and IPv4 of the instance's own addresses in. The
// policy says which address of the host's world an address of the instance's
// world is (docs/networking.md): what is not an address beyond the host is
// refused, so that no socket of the host is reached but by the gateway's
// address.
//
// Everything an instance can make grow has a bound: connections, their buffers,
// UDP sessions, datagrams in reassembly, frames that wait. Frames have the
// 12-byte header of virtio-net in front, without segmentation; checksums of
// the instance's frames may be left out.
package usernet
