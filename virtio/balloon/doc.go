// Package balloon is the memory balloon device (VIRTIO 1.2 §5.5): the guest gives
// pages of its RAM back to the host, up to a target that the host sets, tells
// what its memory is used for, and reports the pages that it has free.
//
// A page that was given back is gone from this process: the file behind the RAM
// has a hole there, or a private mapping of a snapshot has the snapshot's page
// again (memory.Guest.Release). For that the device needs the system calls
// fallocate, with FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE, and madvise, with
// MADV_DONTNEED. It marks such pages dirty, so snapshots and migrations have the
// content that they have now.
//
// A guest that names pages which it uses only loses its own memory; pages outside
// its RAM are counted and ignored.
//
// Free page hinting is offered, but never asked for. It is offered since drivers
// disagree on the number of the reporting queue where it is not (Linux before
// 6.11 counts only queues that exist, as the specification does not). It is not
// asked for since Linux may take a hinted page back, under memory pressure, before
// the device has seen the hint: giving it to the host then would lose data.
// Reporting waits for the device, and finds the same pages: a snapshot has holes
// there.
package balloon
