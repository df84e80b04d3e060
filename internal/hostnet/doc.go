// Package hostnet gives an instance its place on the host's network: a tap on
// a bridge, an address with NAT to the outside, name servers and published
// ports.
//
// Attach does everything in the process that owns the instance; nothing else
// runs. What it leaves on the host is either tied to that process (the tap,
// the published ports and the DNS forwarder end with it, however it ends) or
// shared and counted: the bridge, its nftables table and the file of address
// leases under Options.Root. The last Close removes the bridge and the table.
// An owner that was killed leaves only its lease, which the next Attach, Close
// or Cleanup takes back.
//
// The shared things are changed under a file lock. Only the bridge made here
// and the nftables table of the same name are ever touched. One bridge belongs
// to one Root.
//
// Attach works in the network namespace of the calling thread; the proxies it
// starts run on any thread of the process. Everything here is IPv4; the bridge
// has IPv6 switched off so that a guest cannot send the host router
// advertisements.
//
// The package knows nothing of KVM, virtio or images, and is linked into the
// process whose memory is measured: keep its imports small.
package hostnet
