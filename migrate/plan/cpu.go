package plan

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"github.com/hvctl/hvctl/vcpu/cpuid"
)

// CPU is what a guest sees of a processor, or what a host can show to one.
type CPU struct {
	Vendor string `json:"vendor"`
	// Features are the words of CPUID and of feature MSRs that are sets of bits,
	// by names like "7.0.ebx" (leaf, subleaf, register, all in hexadecimal).
	Features map[string]uint32 `json:"features,omitempty"`
	PhysBits uint32            `json:"phys_bits"` // of physical addresses
	XSave    uint32            `json:"xsave_bytes"`
	TSCkHz   uint64            `json:"tsc_khz"`
	TSCScale bool              `json:"tsc_scaling"` // the host can show another frequency
}

// tscTolerance is how far two clocks may be apart, in millionths: what an
// oscillator may drift anyway.
const tscTolerance = 250

// Compare returns why a guest that sees the processor guest cannot run on host,
// one line for every bit that is missing. Nothing means that it can.
func Compare(guest, host CPU) (missing []string) {
	if guest.Vendor != host.Vendor {
		missing = append(missing, fmt.Sprintf("the guest's processor is by %q, the destination's by %q", guest.Vendor, host.Vendor))
	}
	for _, word := range slices.Sorted(maps.Keys(guest.Features)) {
		for lack := guest.Features[word] &^ host.Features[word]; lack != 0; lack &= lack - 1 {
			missing = append(missing, fmt.Sprintf("the guest was told of %s, which the destination lacks", cpuid.BitName(word, bits.TrailingZeros32(lack))))
		}
	}
	if guest.PhysBits > host.PhysBits {
		missing = append(missing, fmt.Sprintf("the guest's physical addresses have %d bits, the destination's %d", guest.PhysBits, host.PhysBits))
	}
	if guest.XSave > host.XSave {
		missing = append(missing, fmt.Sprintf("the guest's XSAVE area has %d bytes, the destination's %d", guest.XSave, host.XSave))
	}
	if !host.TSCScale && apart(guest.TSCkHz, host.TSCkHz) {
		missing = append(missing, fmt.Sprintf("the guest's TSC runs at %d kHz, the destination's at %d and it cannot scale it", guest.TSCkHz, host.TSCkHz))
	}
	return missing
}

func apart(a, b uint64) bool {
	d := max(a, b) - min(a, b)
	return d > max(a, b)/1_000_000*tscTolerance+max(a, b)%1_000_000*tscTolerance/1_000_000
}
