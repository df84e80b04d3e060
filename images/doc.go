// Package images keeps container images and the root file system images made
// from them.
//
// A Store is a directory. It is an OCI image layout (image-spec v1.1), so other
// tools can read it, with a few directories of our own beside:
//
//	oci-layout, index.json   one descriptor per reference, named by the
//	                         annotation org.opencontainers.image.ref.name
//	blobs/sha256/            manifests, configurations, layers
//	derived/                 root file system images: DIGEST.vN.erofs, and
//	                         unpacked ones where needed: DIGEST.vN.tree
//	kernels/                 guest kernels (package images/kernel)
//	tmp/                     files being written
//	lock, index.lock         see below
//
// An image enters a store by Pull or Import and is found by Resolve. Rootfs
// gives the one read-only file system image of an image, built by package
// images/rootfs on first use.
//
// Several processes may use a store at once. Whoever adds holds the file lock
// "lock" shared from its first blob until its entry is in the index; whoever
// deletes blobs holds it exclusively, so a blob is never deleted between being
// written and being referenced. "index.lock" orders changes of index.json.
// Readers take no lock: every file appears by rename, whole and synced. A crash
// or a full disk at any moment leaves the list of images as it was; what is left
// in tmp/ is removed by the next Open that finds the store idle.
//
// Everything that comes from a registry or a file is hostile: sizes are bounded
// before they are read, digests are verified as bytes arrive, names never reach
// the file system.
//
// What it is not: it does not run anything and knows no back end. The workload,
// microvm and container packages import it.
package images
