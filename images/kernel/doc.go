// Package kernel keeps the guest kernels of an image store.
//
// A Store is the directory kernels/ of an image store: one sub-directory per
// kernel, and the file "default" naming the one to use when nothing is said:
//
//	NAME/kernel       bzImage or ELF vmlinux, as it came
//	NAME/config       the kernel's configuration, if it came with one
//	NAME/modules/     the tree of /lib/modules/VERSION, if it has modules
//	NAME/kernel.json  what List shows
//
// Kernels enter by Import (files of the user) or Fetch (Debian's packages, by
// the host's own apt, so that apt's signatures hold). A kernel appears under its
// name whole or not at all, and replacing one is a single step.
//
// Modules answers which module files a guest needs, and in which order, to have
// certain drivers: the few that go into an initramfs.
//
// What it is not: it does not load or unpack kernels (internal/boot does), build
// initramfs images (internal/initrd), or build kernels.
package kernel
