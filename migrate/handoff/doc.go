// Package handoff gives a running machine to another process on the same host:
// hvctl upgrade (docs/migration-protocol.md, section 10). Guest memory is not
// copied: both processes map one memfd, and files go along as descriptors.
//
// The two share a socketpair, and the old process is the parent of the new one.
// That makes the question who runs the guest one with an answer, always: the old
// process can kill the new one and wait for its end, and what the new one said
// before that is still in the socket. There is no doubt to resolve by people, and
// nothing to sync to a disk: a host that dies takes both along.
package handoff
