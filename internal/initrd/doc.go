// Package initrd builds the initramfs that carries the guest's init and just
// the kernel modules that the chosen kernel lacks.
//
// The archive is an uncompressed newc cpio: the host unpacks each module once
// and keeps the result by content, and the guest's kernel then only copies.
// The same input gives the same bytes, so that the file can be shared between
// machines and named by its digest. Layout inside:
//
//	/init              cmd/hvinit
//	/dev/console       so that the kernel gives init a console
//	/hvctl/modules     module files in load order, one name a line
//	/hvctl/NAME.ko     the modules
//
// The package knows nothing of kernels: which modules are needed, and where
// their files are, is decided by images/kernel with the list of Wanted.
package initrd
