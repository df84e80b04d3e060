package kvm

import (
	"maps"
	"slices"
)

// Caps is a snapshot of what KVM says of every capability that this package
// knows; missing ones are absent.
type Caps map[Cap]int

// Has reports whether KVM has c.
func (s Caps) Has(c Cap) bool { return s[c] > 0 }

// Sorted returns the capabilities in s in numerical order.
func (s Caps) Sorted() []Cap { return slices.Sorted(maps.Keys(s)) }

// KnownCaps returns every capability that this package has a name for, in
// numerical order.
func KnownCaps() []Cap { return slices.Sorted(maps.Keys(capNames)) }

func snapshotCaps(x extender) (Caps, error) {
	s := Caps{}
	for c := range capNames {
		v, err := x.CheckExtension(c)
		if err != nil {
			return nil, err
		}
		if v > 0 {
			s[c] = v
		}
	}
	return s, nil
}

func require(x extender, caps []Cap) error {
	for _, c := range caps {
		v, err := x.CheckExtension(c)
		if err != nil {
			return err
		}
		if v <= 0 {
			return &CapError{Cap: c}
		}
	}
	return nil
}
