// Package pci is the virtio transport over a PCI function (VIRTIO 1.2 §4.1),
// modern only: one 64-bit BAR with all register structures, and MSI-X. INTx is
// not offered. Doorbells are KVM ioeventfds that follow the BAR when the guest
// moves it.
//
// It knows the machine only through virtio.Doorbells, MSI and MSIAllocator; the
// bus is internal/pci.
package pci
