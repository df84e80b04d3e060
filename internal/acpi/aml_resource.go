package acpi

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/memory"
)

// Resource descriptors (ACPI 6.5, 6.4). A resource is its bytes.
type resource []byte

// resourceTemplate is a Buffer of descriptors and an end tag; a zero checksum
// in it says "not computed" (6.4.2.9).
func resourceTemplate(rs ...resource) node {
	var b []byte
	for _, r := range rs {
		b = append(b, r...)
	}
	return buffer(append(b, 0x79, 0))
}

// memory32 is a fixed range below 4 GiB that a device decodes (6.4.3.4).
func memory32(base memory.GPA, size uint64) resource {
	b := []byte{0x86, 9, 0, 1} // read-write
	b = binary.LittleEndian.AppendUint32(b, uint32(base))
	return binary.LittleEndian.AppendUint32(b, uint32(size))
}

// ioPorts is a fixed range of ports with full 16-bit decode (6.4.2.5).
func ioPorts(base uint16, n uint8) resource {
	b := []byte{0x47, 1}
	b = binary.LittleEndian.AppendUint16(b, base)
	b = binary.LittleEndian.AppendUint16(b, base)
	return append(b, 1, n)
}

// edgeInterrupt is an extended interrupt descriptor (6.4.3.6): consumer, edge
// triggered, active high, exclusive. Every interrupt of ours is raised by an
// eventfd, which is an edge.
func edgeInterrupt(gsi uint32) resource {
	const consumer, edge = 1 << 0, 1 << 1
	return binary.LittleEndian.AppendUint32([]byte{0x89, 6, 0, consumer | edge, 1}, gsi)
}

// Kinds and flags of address space descriptors (6.4.3.5).
const (
	spaceMemory, spaceIO, spaceBus = 0, 1, 2

	producerFixed = 1<<2 | 1<<3        // a bridge's window, both ends fixed
	consumerFixed = 1<<0 | 1<<2 | 1<<3 // a device's own range
	memReadWrite  = 1 << 0             // not cacheable
	ioEntireRange = 3                  // ISA and non-ISA ranges
)

// busRange is a WordBusNumber window.
func busRange(first, last uint16) resource {
	b := []byte{0x88, 13, 0, spaceBus, producerFixed, 0}
	for _, v := range []uint16{0, first, last, 0, last - first + 1} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b
}

// ioWindow is a WordIO window of a bridge.
func ioWindow(first, last uint16) resource {
	b := []byte{0x88, 13, 0, spaceIO, producerFixed, ioEntireRange}
	for _, v := range []uint16{0, first, last, 0, last - first + 1} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b
}

// memWindow32 is a DWordMemory window of a bridge.
func memWindow32(base memory.GPA, size uint64) resource {
	b := []byte{0x87, 23, 0, spaceMemory, producerFixed, memReadWrite}
	for _, v := range []uint64{0, uint64(base), uint64(base) + size - 1, 0, size} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return b
}

// memWindow64 is a QWordMemory range with the given general flags.
func memWindow64(base memory.GPA, size uint64, flags byte) resource {
	b := []byte{0x8a, 43, 0, spaceMemory, flags, memReadWrite}
	for _, v := range []uint64{0, uint64(base), uint64(base) + size - 1, 0, size} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}
