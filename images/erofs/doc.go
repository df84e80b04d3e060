// Package erofs writes EROFS file system images.
//
// EROFS is the read-only file system that every Debian kernel carries. The
// writer makes uncompressed images with 4 KiB blocks: extended inodes with
// nanosecond times, hard links, holes in sparse files, devices, symbolic links
// and extended attributes. File contents are streamed once and never held in
// memory, except for short tails that are stored next to their inode.
//
// The format is described in the Linux kernel's
// Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. The features
// used are those of Linux 5.15 and later: chunk-based files mark a sparse file
// (EROFS_FEATURE_INCOMPAT_CHUNKED_FILE); nothing else needs a feature bit.
//
// What it is not: it does not read images, compress, or know about layers; the
// package images/rootfs turns layers into a tree for it. It is used by
// images/rootfs only. A Writer is for one goroutine.
package erofs
