// Package pci is one PCI root bus with its host bridge: configuration space
// over ECAM and over the ports 0xcf8 and 0xcfc, functions with base address
// registers that the guest may size, move and switch off, and capabilities.
//
// It knows nothing of virtio or KVM. A Function is made by the device behind
// it (virtio/pci), gets its addresses when it is added to a Bus, and appears in
// the machine's MMIO bus while its memory decoding is on.
//
// Any access is answered: what does not exist, is not aligned or is larger than
// a configuration cycle reads as all ones and writes nowhere.
package pci
