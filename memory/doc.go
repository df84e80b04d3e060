// Package memory is guest physical memory: addresses (GPA), the RAM regions
// behind them (Guest), scatter lists of guest bytes (Vec), loads and stores
// on words that guest and VMM share, and the bitmap of pages that the VMM
// itself wrote (Bitmap).
//
// It does not know KVM: package kvm speaks the kernel's numbers, memory the
// guest's addresses, and internal/machine joins the two. Any package may
// import it; it imports none of ours. Unsafe code is allowed here.
package memory
