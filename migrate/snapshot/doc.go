// Package snapshot reads and writes snapshot files: a machine's RAM, sparse, at
// fixed offsets, and behind it the state sections, an opaque description and
// checksums. docs/snapshot-format.md specifies the file.
//
// It works on data (regions of RAM, sections), not on machines: who calls it
// pauses the machine before and resumes it after. Files are taken as hostile;
// what a file claims is checked against bounds before memory is taken for it.
package snapshot
