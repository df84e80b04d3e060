// Package hostdir serves a directory of the host as a FUSE file system
// (Linux fs/fuse, protocol 7.x) whose client is hostile: a guest.
//
// The client cannot reach outside. It names files by node IDs that we gave
// out, each of which stands for a descriptor opened with O_PATH, and by single
// names below such a directory. No path of more than one component is ever
// resolved, no symbolic link is ever followed, and "..", "" and names with a
// slash are refused: whatever the client or somebody on the host renames or
// replaces meanwhile, there is no name that leads out. Only regular files and
// directories are opened; device nodes are neither opened nor made.
//
// Files that the client makes belong to the user of the client that made them,
// when we run as root; else they belong to us.
//
// FS is a fuse.RawFileSystem; package virtio/fs is its only user.
package hostdir
