package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
)

// Snapshot is an open snapshot file. Its methods may be called concurrently.
type Snapshot struct {
	f *os.File
	h header
	x *index
}

// Open opens the file and judges everything in it but the bytes of memory.
// Errors wrap ErrNotSnapshot, ErrVersion, ErrCorrupt, or are the file
// system's.
func Open(path string) (*Snapshot, error) {
	// O_NONBLOCK: a FIFO in the file's place must not hold us.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return OpenFile(f)
}

// OpenFile is Open for a file that is open already. It is the snapshot's, and closed after
// an error.
func OpenFile(f *os.File) (*Snapshot, error) {
	s, err := read(f)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return s, nil
}

func read(f *os.File) (*Snapshot, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is a %v", ErrNotSnapshot, fi.Mode().Type())
	}
	s := &Snapshot{f: f}
	head := make([]byte, headerSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if s.h, err = decodeHeader(head[:n], uint64(fi.Size())); err != nil {
		return nil, err
	}
	b := make([]byte, s.h.indexLen)
	if _, err := f.ReadAt(b, int64(s.h.indexOff)); err != nil {
		return nil, fmt.Errorf("read the index: %w", err)
	}
	if got := identity(head[:hashedSize], b); got != s.h.id {
		return nil, fmt.Errorf("%w: the header names the identity %v, header and index have %v", ErrCorrupt, s.h.id, got)
	}
	if s.x, err = decodeIndex(b, s.h); err != nil {
		return nil, err
	}
	return s, nil
}

// Close closes the file. Mappings of it stay valid.
func (s *Snapshot) Close() error { return s.f.Close() }

// File returns the open file, for mapping the regions. It stays owned by s.
func (s *Snapshot) File() *os.File { return s.f }

// Version returns the format version of the file.
func (s *Snapshot) Version() uint32 { return s.h.version }

// ID returns the identity of the snapshot.
func (s *Snapshot) ID() Ref { return s.h.id }

// Base returns the identity of the snapshot that this one is a diff over; ok
// is false for a full snapshot.
func (s *Snapshot) Base() (base Ref, ok bool) { return s.h.base, s.h.diff }

// Regions returns the RAM and where it lies in the file. Only a full snapshot
// may be mapped. The caller may not change the slice.
func (s *Snapshot) Regions() []Region { return s.x.regions }

// Description returns the JSON given to Write. It comes from the file: whoever
// decodes it treats it as hostile.
func (s *Snapshot) Description() json.RawMessage { return s.x.description }

// Sections returns the saved state, each section's checksum being right. The
// payloads come from the file: whoever loads them treats them as hostile.
func (s *Snapshot) Sections() []state.Section { return s.x.sections }
