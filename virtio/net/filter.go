package net

import "slices"

// maxTable bounds each of the two address tables; a longer one counts as "all".
const maxTable = 64

type hwAddr = [6]byte

// filter says which frames the driver wants (§5.1.6.5.1). It is immutable:
// a change makes a new one.
type filter struct {
	Promisc  bool `json:"promisc"`
	AllMulti bool `json:"all_multi"`
	AllUni   bool `json:"all_uni"`
	NoMulti  bool `json:"no_multi"`
	NoUni    bool `json:"no_uni"`
	NoBcast  bool `json:"no_broadcast"`

	Uni      []hwAddr `json:"uni"`
	Multi    []hwAddr `json:"multi"`
	UniOver  bool     `json:"uni_overflow"`
	MultOver bool     `json:"multi_overflow"`

	MAC hwAddr `json:"mac"` // zero: we do not know the driver's
}

// wants decides on a frame by its destination.
func (f *filter) wants(to hwAddr) bool {
	switch {
	case f.Promisc:
		return true
	case to == hwAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}:
		return !f.NoBcast
	case to[0]&1 != 0:
		return !f.NoMulti && (f.AllMulti || f.MultOver || slices.Contains(f.Multi, to))
	}
	return !f.NoUni && (f.AllUni || f.UniOver || to == f.MAC || f.MAC == hwAddr{} || slices.Contains(f.Uni, to))
}
