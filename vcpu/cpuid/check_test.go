package cpuid

import (
	"slices"
	"strings"
	"testing"
)

func TestGuestsMoveOnlyWhereTheirFeaturesAre(t *testing.T) {
	vendor := Entry{Leaf: 0, EAX: 0xd, EBX: 0x68747541, EDX: 0x69746e65, ECX: 0x444d4163}
	base := []Entry{
		vendor,
		{Leaf: 1, ECX: 0x201, EDX: 0x178bfbff},
		{Leaf: 7, Indexed: true, EBX: 0x20},
		{Leaf: 0xd, Indexed: true, EAX: 7},
		{Leaf: 0xd, Subleaf: 2, Indexed: true, EAX: 256, EBX: 576},
		{Leaf: 0x8000_0008, EAX: 48<<8 | 40},
	}
	for _, tc := range []struct {
		name   string
		guest  func([]Entry)
		host   func([]Entry)
		refuse string // part of the message; empty: it can move
	}{
		{"equal hosts", nil, nil, ""},
		{"host has more", nil, func(h []Entry) { h[1].ECX |= 1 << 12; h[2].EBX |= 1 << 16 }, ""},
		{"host lacks", nil, func(h []Entry) { h[2].EBX = 0 }, "it has: AVX2"},
		{"host lacks two", nil, func(h []Entry) { h[1].ECX = 0 }, "SSE3, SSSE3"},
		{"the guest's own XSAVE switch", func(g []Entry) { g[1].ECX |= osxsave }, nil, ""},
		{"another vendor", nil, func(h []Entry) { h[0].EBX++ }, "ButhenticAMD"},
		{"fewer address bits", nil, func(h []Entry) { h[5].EAX = 48<<8 | 39 }, "physical addresses of 40 bits"},
		{"more address bits", nil, func(h []Entry) { h[5].EAX = 57<<8 | 52 }, ""},
		{"XSAVE laid out otherwise", nil, func(h []Entry) { h[4].EBX = 832 }, "XSAVE component 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			guest, host := slices.Clone(base), slices.Clone(base)
			if tc.guest != nil {
				tc.guest(guest)
			}
			if tc.host != nil {
				tc.host(host)
			}
			err := Compatible(guest, host)
			if tc.refuse == "" && err != nil || tc.refuse != "" && (err == nil || !strings.Contains(err.Error(), tc.refuse)) {
				t.Errorf("%v, want %q", err, tc.refuse)
			}
		})
	}
}
