// Package mmio is the virtio transport over plain memory-mapped registers
// (VIRTIO 1.2 §4.2, version 2, not legacy). The machine declares each device
// in ACPI with its address range and one edge-triggered interrupt line.
//
// It knows the machine only through virtio.Doorbells and Line.
package mmio
