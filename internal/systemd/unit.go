package systemd

import (
	"fmt"
	"strings"
)

// Scope is the unit that a container's cgroup is.
type Scope struct {
	Slice string // "machine-a.slice"
	Unit  string // "prefix-name.scope"
}

const (
	sliceSuffix, scopeSuffix = ".slice", ".scope"

	// rootSlice is the tree's root (systemd.special(7)).
	rootSlice = "-" + sliceSuffix

	// maxUnit is systemd's UNIT_NAME_MAX, with the zero at its end.
	maxUnit = 255
)

// DefaultPath is the linux.cgroupsPath of a container that names none.
func DefaultPath(id string) string { return ":hvctl-oci:" + id }

// ParsePath reads a linux.cgroupsPath as engines write it for systemd,
// SLICE:PREFIX:NAME. An empty slice is the usual one: user.slice of a user's
// manager, else system.slice. An empty prefix is left out, with its hyphen. The
// error wraps ErrPath.
func ParsePath(path string, user bool) (Scope, error) {
	bad := func(format string, a ...any) (Scope, error) {
		return Scope{}, fmt.Errorf("%w: %q: %s", ErrPath, path, fmt.Sprintf(format, a...))
	}
	parts := strings.Split(path, ":")
	if len(parts) != 3 {
		return bad("with systemd's driver it is SLICE:PREFIX:NAME, such as system.slice:oci:web; without --systemd-cgroup it is a path")
	}
	s, name := Scope{Slice: parts[0]}, parts[2]
	switch {
	case s.Slice == "" && user:
		s.Slice = "user" + sliceSuffix
	case s.Slice == "":
		s.Slice = "system" + sliceSuffix
	}
	if why := badSlice(s.Slice); why != "" {
		return bad("the slice %q %s", s.Slice, why)
	}
	switch {
	case name == "":
		return bad("the name is missing")
	case strings.HasSuffix(name, sliceSuffix):
		return bad("a container is a scope in a slice, not a slice")
	}
	s.Unit = escape(strings.TrimSuffix(name, scopeSuffix)) + scopeSuffix
	if parts[1] != "" {
		s.Unit = escape(parts[1]) + "-" + s.Unit
	}
	if len(s.Unit) > maxUnit {
		return bad("the unit's name would be %d bytes long, more than %d", len(s.Unit), maxUnit)
	}
	return s, nil
}

// badSlice says what is wrong with a slice's name; "": nothing. a-b.slice lies
// in a.slice, so that an empty part would have no place.
func badSlice(s string) string {
	stem, ok := strings.CutSuffix(s, sliceSuffix)
	switch {
	case s == rootSlice:
		return ""
	case !ok || stem == "":
		return "does not end in NAME.slice"
	case len(s) > maxUnit:
		return "is longer than systemd's names may be"
	case stem[0] == '-' || stem[len(stem)-1] == '-' || strings.Contains(stem, "--"):
		return "has an empty part between hyphens"
	}
	for i := range len(stem) {
		if !unitByte(stem[i]) {
			return fmt.Sprintf("has %q, which no unit's name may have", stem[i])
		}
	}
	return ""
}

// unitByte says what may be in a unit's name (systemd.unit(5)).
func unitByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(`:-_.\`, c) >= 0
}

// escape replaces what may not be in a unit's name as systemd-escape(1) does.
// What may, a hyphen among it, stays as it is. A backslash is no exception, so
// that different names stay different.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; unitByte(c) && c != '\\' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}
