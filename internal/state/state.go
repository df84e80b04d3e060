// Package state is the one way every part of a machine saves and restores
// itself: a plain struct of exported fixed-width fields, JSON in a versioned
// section with a checksum. Loading treats the bytes as hostile.
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"reflect"
)

var (
	// ErrCorrupt is wrapped when a section's checksum or encoding is wrong.
	ErrCorrupt = errors.New("state section corrupt")
	// ErrVersion is wrapped when a section has a version this build cannot read.
	ErrVersion = errors.New("state section version not supported")
)

// maxPayload bounds one section; the largest real one (vsock or console
// buffers) is far below it.
const maxPayload = 16 << 20

// Section is one saved object, named by its path in the machine
// ("vcpu/0", "virtio/2/blk").
type Section struct {
	Path    string          `json:"path"`
	Version uint32          `json:"version"`
	CRC     uint32          `json:"crc32c"`
	Payload json.RawMessage `json:"payload"`
}

// Stateful is what can be saved. SaveState is called only while the machine is
// paused and returns a plain struct: no pointers, descriptors or durations.
// LoadState is called on a fresh object built from the same configuration.
type Stateful interface {
	StateVersion() uint32
	SaveState() (any, error)
	LoadState(Decoder) error
}

// Decoder gives LoadState its section.
type Decoder struct {
	version uint32
	payload []byte
}

// Version is the version the section was written with: the current one or the
// one before it.
func (d Decoder) Version() uint32 { return d.version }

// Into decodes the payload into the struct v points to. Unknown fields,
// trailing bytes and wrong types are errors wrapping ErrCorrupt.
func (d Decoder) Into(v any) error {
	dec := json.NewDecoder(bytes.NewReader(d.payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: bytes after the payload", ErrCorrupt)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Save encodes s as the section called path.
func Save(path string, s Stateful) (Section, error) {
	v, err := s.SaveState()
	if err != nil {
		return Section{}, fmt.Errorf("save %s: %w", path, err)
	}
	p, err := json.Marshal(v)
	if err != nil {
		return Section{}, fmt.Errorf("save %s: %w", path, err)
	}
	return Section{Path: path, Version: s.StateVersion(), CRC: crc32.Checksum(p, castagnoli), Payload: p}, nil
}

// Rehearse does what Save and Load of s do, but for changing anything, and returns
// the length of the payload: the first use of a type costs several times the next
// (encoding/json looks at its fields once, and code is paged in).
func Rehearse(s Stateful) (int, error) {
	v, err := s.SaveState()
	if err != nil {
		return 0, err
	}
	p, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	return len(p), Decoder{version: s.StateVersion(), payload: p}.Into(reflect.New(reflect.TypeOf(v)).Interface())
}

// Load checks sec and gives it to s. Versions other than s's own and the one
// before it are refused with ErrVersion.
func Load(sec Section, s Stateful) error {
	cur := s.StateVersion()
	switch {
	case len(sec.Payload) > maxPayload:
		return fmt.Errorf("%w: %s is %d bytes, at most %d are allowed", ErrCorrupt, sec.Path, len(sec.Payload), maxPayload)
	case crc32.Checksum(sec.Payload, castagnoli) != sec.CRC:
		return fmt.Errorf("%w: %s has a wrong checksum", ErrCorrupt, sec.Path)
	case sec.Version > cur || sec.Version+1 < cur:
		return fmt.Errorf("%w: %s is version %d, this build reads %d and %d", ErrVersion, sec.Path, sec.Version, cur, max(cur, 1)-1)
	}
	if err := s.LoadState(Decoder{version: sec.Version, payload: sec.Payload}); err != nil {
		return fmt.Errorf("load %s: %w", sec.Path, err)
	}
	return nil
}
