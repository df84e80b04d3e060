// Package archive copies files between the host and an instance as tar
// streams: Pack makes one of a path, Unpack puts one where a path says, by the
// rules of `docker cp`. The same code runs on both sides: in the command line
// on the host, in the owner of a container, and in a VM's guest (cmd/hvinit).
//
// Both sides' file trees are hostile to the other: the instance's files are
// the workload's, and so is the stream that comes out of it. Paths are resolved
// inside a root (openat2, RESOLVE_IN_ROOT); a tree is walked by descriptors
// without following a symbolic link; and what a stream brings lands below one
// directory or is refused (os.Root).
//
// Not carried: extended attributes, hard links (each name becomes a file),
// devices, pipes and sockets, and other file systems mounted below the path.
package archive
