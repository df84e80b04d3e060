// Package rendezvous lets the destination of a migration make the connections that
// the source uses (docs/migration-protocol.md, section 12): for destinations behind
// NAT or a firewall, and for hosts that fetch what they want. Nothing else of a
// migration changes. The source still begins and decides; where it would dial, it takes a
// connection that the destination has parked.
//
// The source's Gate lets one destination in, by its key and a one-time token. Its
// Desk hands the connections out that come from there. The destination's Puller keeps one
// parked, and joins those that are taken to where its owner listens. What runs over them is
// TLS between the owners: neither Desk nor Puller can read it.
package rendezvous
