// Package uffd mirrors what a lazy restore needs of the kernel's userfaultfd
// (Linux, include/uapi/linux/userfaultfd.h): faults on pages that are missing
// are read from a descriptor, and answered with their content.
//
// The process that answers must not be a Go program that touches the memory
// itself: a goroutine in a page fault cannot be stopped, and the garbage
// collector would wait for it while it waits for the collector.
package uffd
