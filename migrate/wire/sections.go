package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/hvctl/hvctl/internal/state"
)

const (
	// MaxSections bounds the sections of one machine.
	MaxSections = 4096
	// MaxSection bounds the payload of one section, in bytes.
	MaxSection = 16 << 20
	// MaxState bounds the encoded sections together, in bytes.
	MaxState = 16 << 20
	// sectionFixed is the length of a section's fields without path and payload.
	sectionFixed = 2 + 4 + 4 + 4
)

// AppendSections appends the encoding of sections to b. It fails when a bound
// is broken or two sections have one path.
func AppendSections(b []byte, sections []state.Section) ([]byte, error) {
	if len(sections) > MaxSections {
		return nil, fmt.Errorf("%d state sections, at most %d fit", len(sections), MaxSections)
	}
	start := len(b)
	seen := make(map[string]bool, len(sections))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(sections)))
	for _, s := range sections {
		switch {
		case len(s.Path) == 0 || len(s.Path) > 255:
			return nil, fmt.Errorf("state section path %q has %d bytes, want 1 to 255", s.Path, len(s.Path))
		case seen[s.Path]:
			return nil, fmt.Errorf("two state sections are called %s", s.Path)
		case len(s.Payload) > MaxSection || len(b)-start+len(s.Payload) > MaxState:
			return nil, fmt.Errorf("state section %s of %d bytes is beyond the bound of %d for all", s.Path, len(s.Payload), MaxState)
		}
		seen[s.Path] = true
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s.Path)))
		b = append(b, s.Path...)
		b = binary.LittleEndian.AppendUint32(b, s.Version)
		b = binary.LittleEndian.AppendUint32(b, s.CRC)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s.Payload)))
		b = append(b, s.Payload...)
	}
	return b, nil
}

// Sections decodes what AppendSections wrote and checks every checksum. The
// payloads are parts of the cursor's bytes. On an error it returns nil and
// c.Err says what is wrong.
func Sections(c *Cursor) []state.Section {
	before := c.Len()
	// The count is judged by the bytes that are there, before memory is taken.
	n := c.Count(0, min(MaxSections, uint32(c.Len()/sectionFixed)), "number of state sections")
	sections := make([]state.Section, 0, n)
	seen := make(map[string]bool, n)
	for i := range n {
		path := string(c.Bytes(int(c.Uint16("path length")), "path"))
		s := state.Section{Path: path, Version: c.Uint32(path + " version"), CRC: c.Uint32(path + " checksum")}
		size := c.Count(0, MaxSection, path+" length")
		s.Payload = c.Bytes(size, path+" payload")
		switch {
		case c.Err() != nil:
			return nil
		case path == "" || len(path) > 255 || seen[path]:
			c.Fail("section %d has the path %q: empty, too long or there twice", i, path)
			return nil
		case CRC(0, s.Payload) != s.CRC:
			c.Fail("section %s has a wrong checksum", path)
			return nil
		}
		seen[path] = true
		sections = append(sections, s)
	}
	if c.Err() == nil && before-c.Len() > MaxState {
		c.Fail("state sections have %d bytes, at most %d are allowed", before-c.Len(), MaxState)
	}
	if c.Err() != nil {
		return nil
	}
	return sections
}
