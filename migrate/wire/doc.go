// Package wire is the byte level that snapshot files and the migration stream
// share: the encoding of state sections, and the frames of the stream with
// their checksums and limits. All integers are little-endian; all input is
// taken as hostile: lengths are checked before anything is allocated.
//
// docs/snapshot-format.md and docs/migration-protocol.md specify the bytes.
package wire
