// Package boot measures the way from starting a program to the first byte that
// a workload in a VM prints: stage by stage, for hvctl and, on the same kernel,
// initramfs and root file system, for QEMU's microvm machine. It also measures
// what the VMM's process holds in memory beyond the guest's RAM.
//
// Iterations of the targets are interleaved (A B B A ...), none is dropped, and
// every figure is kept. See docs/bench-method.md.
package boot
