package boot

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/hvctl/hvctl/memory"
)

// Memory map entry types; E820 and PVH number them alike.
const (
	typeRAM      = 1
	typeReserved = 2
)

// maxMapEntries is what boot_params can hold (E820_MAX_ENTRIES_ZEROPAGE);
// Linux takes no more than that by PVH either.
const maxMapEntries = 128

type mapEntry struct {
	Region
	kind uint32
}

// memoryMap is the sorted map the guest sees: RAM without the reserved
// ranges, and those. Reserved ranges may overlap each other.
func memoryMap(ram, reserved []Region) ([]mapEntry, error) {
	reserved = union(reserved)
	var out []mapEntry
	for _, r := range reserved {
		ram = subtract(ram, r)
		out = append(out, mapEntry{r, typeReserved})
	}
	for _, r := range ram {
		out = append(out, mapEntry{r, typeRAM})
	}
	slices.SortFunc(out, func(a, b mapEntry) int { return cmp.Compare(a.GPA, b.GPA) })
	if len(out) > maxMapEntries {
		return nil, fmt.Errorf("%w: memory map has %d entries, more than %d", ErrParams, len(out), maxMapEntries)
	}
	return out, nil
}

// union sorts rs and joins those that overlap or touch.
func union(rs []Region) []Region {
	rs = slices.Clone(rs)
	slices.SortFunc(rs, func(a, b Region) int { return cmp.Compare(a.GPA, b.GPA) })
	var out []Region
	for _, r := range rs {
		if n := len(out); n > 0 && r.GPA <= out[n-1].End() {
			out[n-1].Size = uint64(max(out[n-1].End(), r.End()) - out[n-1].GPA)
			continue
		}
		out = append(out, r)
	}
	return out
}

// e820 encodes the map as struct boot_e820_entry, 20 bytes each.
func e820(m []mapEntry) []byte {
	var b []byte
	for _, e := range m {
		b = appendEntry(b, e)
	}
	return b
}

// pvhMap encodes the map as struct hvm_memmap_table_entry, 24 bytes each.
func pvhMap(m []mapEntry) []byte {
	var b []byte
	for _, e := range m {
		b = binary.LittleEndian.AppendUint32(appendEntry(b, e), 0)
	}
	return b
}

func appendEntry(b []byte, e mapEntry) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(e.GPA))
	b = binary.LittleEndian.AppendUint64(b, e.Size)
	return binary.LittleEndian.AppendUint32(b, e.kind)
}

// legacyHole is the part of low memory that a PC never gives to the system.
var legacyHole = Region{lowRAMEnd, uint64(oneMiB - lowRAMEnd)}

var lowMemory = Region{0, uint64(oneMiB)}

func pageDown(a memory.GPA) memory.GPA { return a &^ 0xfff }
