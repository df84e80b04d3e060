// Package overlay keeps what a guest writes over a disk that is only read: a file of
// hvctl's own beside the image, of the disk's size and with holes where nothing was
// written. In it are
//
//	0      the header: magic "HVCTLOVL", version, size of the disk, identity of the
//	       image below, CRC-32 (IEEE) of what is before it; big-endian
//	4096   a bit for each block of 64 KiB, the lowest of a byte first: set when the
//	       block is here and no longer in the image below
//	data   from the next multiple of 64 KiB on: the blocks, where they are on the disk
//
// A block comes here whole when a part of it is first written. Its bit is written to
// the file only after its data have been synced, by Sync, which is a guest's flush: so
// whenever the host ends, each block is what it was at the last flush or newer, as on
// a disk. What was not flushed when the process ends may be lost, also as on a disk.
//
// The file is hostile input as any disk's is: nothing is believed but a header that
// fits the disk.
package overlay
