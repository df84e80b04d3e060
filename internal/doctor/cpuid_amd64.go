package doctor

import (
	"encoding/binary"
	"strings"
)

// cpuid executes CPUID with sub-leaf 0.
func cpuid(leaf uint32) (a, b, c, d uint32)

// hypervisorVendor is the 12 letters a hypervisor shows its guests in leaf
// 0x40000000; empty without one.
func hypervisorVendor() string {
	if _, _, c, _ := cpuid(1); c&(1<<31) == 0 {
		return ""
	}
	_, b, c, d := cpuid(0x40000000)
	var v []byte
	for _, r := range []uint32{b, c, d} {
		v = binary.LittleEndian.AppendUint32(v, r)
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, string(v))
}
