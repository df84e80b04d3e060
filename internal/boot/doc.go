// Package boot puts a Linux kernel, its initramfs, its command line and the
// boot structures into guest memory and says in which state vCPU 0 must start.
//
// It builds bytes and nothing else: it knows no KVM, starts nothing, and runs
// the same on a machine without virtualization. internal/machine owns the
// memory and hands the resulting Entry to the vCPU.
//
// Kernels come as an ELF vmlinux or as a bzImage. A bzImage is never run: its
// payload is unpacked here, on the host, cached by content, and the ELF inside
// is booted, which saves the guest its own decompression. Two entry protocols
// exist: PVH (32-bit, Xen's docs/misc/pvh.pandoc and hvm/start_info.h) and the
// 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst).
//
// Kernel files are hostile: every number in them is checked before it is used,
// and each refusal names the file, what is wrong with it and what to do.
//
// # Guest memory
//
// Load writes only to RAM it was told about, and expects RAM that reads as
// zero (a fresh mapping, or one whose pages were dropped): zero pages of the
// kernel, its bss above all, are not written at all.
//
// Fixed addresses below 1 MiB, all free for the guest once it runs:
//
//	0x00500  GDT
//	0x06000  PVH start_info, 0x06040 module list, 0x07000 memory map
//	0x07000  boot_params (64-bit protocol)
//	0x08ff0  boot stack, growing down
//	0x09000  page tables (64-bit protocol), 6 pages
//	0x20000  command line, up to 64 KiB
//	0x30000  setup_data
//	0x9fc00  end of low RAM; from here to 1 MiB is reserved in the memory map
//	0xe0000  where ACPI tables belong (ACPIBase)
package boot
