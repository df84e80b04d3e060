// Package fs is the virtio file system device (VIRTIO 1.2 §5.11): it carries
// FUSE requests between the guest's virtiofs and a directory of the host,
// which package virtio/fs/hostdir serves.
//
// The FUSE protocol is decoded by github.com/hanwen/go-fuse. It is given a copy
// of each request, but for the data of writes, since the guest can change its
// buffers while they are judged; data goes between the guest's memory and the
// host's files without a copy.
//
// A guest that has the file system mounted is saved with the names of what it
// knows and has open, which are opened again when it is loaded
// (docs/snapshot-format.md).
package fs
