// Package pmem is the persistent memory device (VIRTIO 1.2 §5.19): a file of the
// host as a range of the guest's addresses, without a disk in between. What the
// guest reads there are the pages of the host's page cache, so guests that have
// the same file share them, and a file system that is mounted with DAX keeps no
// copy in the guest's own cache.
//
// The file is locked as an image of virtio/blk is. What is done to it on the host
// in spite of that, the guest sees: of a file that somebody shrinks, the pages
// behind the new end are gone, and a guest that touches one ends; Lost says so. A
// file that is read-only is mapped without the right to write and is given to the
// guest in a read-only memory slot: its writes come out of the guest as accesses to
// a device that is not there, and do nothing.
//
// The range is not RAM: it is not saved, not part of what a migration sends, and
// no queue's rings can lie in it. Buffers can (memory.Guest.Lend): a program that does
// direct I/O from a file that it has mapped has a disk read them there.
package pmem
