package main

import "testing"

// An empty HOST, as of a variable that is not set, would be the current
// directory.
func TestVolumeWithoutHost(t *testing.T) {
	for _, s := range []string{":/v", ":/v:ro", "", "/only"} {
		if m, err := parseVolume(s); err == nil {
			t.Errorf("volume %q is %s on %s, want an error", s, m.Source, m.Destination)
		}
	}
}
