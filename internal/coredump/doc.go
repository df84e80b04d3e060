// Package coredump writes a guest down as an ELF core file that gdb, crash and
// readelf read: a note with the registers of every CPU, a segment for each
// region of its memory, and one for each stretch of addresses that its kernel
// maps, which leads to the same bytes. Pages of zeroes are holes of the file.
//
// The notes are those of Linux (NT_PRSTATUS, NT_FPREGSET), QEMU's with the
// control registers, by which crash finds a kernel that was loaded at a random
// address, and VMCOREINFO, when the guest's kernel has one in its memory.
package coredump
