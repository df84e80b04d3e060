// Package transport makes the connections of a migration: TLS 1.3 between
// hosts, both sides known by the fingerprints of their keys, or a unix socket
// between processes of one user (docs/migration-protocol.md, section 8).
//
// Its connections have a method Peer, which names the other end, and its
// listeners accept nobody who is not allowed.
package transport
