// Package migrate moves a running machine to another owner: another process,
// another host. It copies the memory while the guest runs, pauses it, sends
// what is left together with the machine's state, and hands over the right to
// run by a protocol in which no lost message and no crash makes two runners
// (docs/migration-protocol.md).
//
// It knows machines only through the interfaces in source.go, which
// internal/machine satisfies by shape, so that everything here is tested
// against fakes. Snapshots, which are files, are package migrate/snapshot
// (docs/snapshot-format.md).
package migrate
