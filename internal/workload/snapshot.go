package workload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// SnapshotFile is the file with memory and state in a snapshot's directory;
// disks are beside it.
const SnapshotFile = "snapshot"

// LostFile is the file, in an instance's directory, in which somebody other than
// its owner has noted why that has to end.
const LostFile = "lost"

// Restore says which snapshot a VM goes on from.
type Restore struct {
	// File is the snapshot file. It may be removed while the VM lives, but not
	// changed.
	File string `json:"file"`
	// Bases are the files below it when it holds differences only: its base first,
	// the full snapshot last.
	Bases []string `json:"bases,omitempty"`
	// Copy reads all memory at once and checks it; otherwise pages are mapped
	// from the file and read when they are touched.
	Copy bool `json:"copy,omitempty"`
	// Lazy reads and checks pages when they are touched (package lazy).
	Lazy bool `json:"lazy,omitempty"`
}

// Snapshotter is a Runtime that can write down all that it is.
type Snapshotter interface {
	// Snapshot fills dir, which is empty, and goes on as before. What the
	// instance does stands still meanwhile. With bases, which are the files of a
	// snapshot and of those below it, in that order, only what differs from them
	// is stored; they are the Runtime's to close.
	Snapshot(ctx context.Context, dir string, bases []*os.File) (SnapshotReport, error)
}

// SnapshotReport says what a snapshot took.
type SnapshotReport struct {
	PausedNs    int64  `json:"pausedNs"` // for so long the instance stood still
	TotalNs     int64  `json:"totalNs"`
	MemoryBytes uint64 `json:"memoryBytes"` // stored; the rest is zeroes
	StateBytes  uint64 `json:"stateBytes"`  // of everything but memory
	DiskBytes   uint64 `json:"diskBytes"`   // of the disks, holes included
}

// Description is what a snapshot file says of its instance beside the state of
// the machine.
type Description struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Config  *Config   `json:"config"` // of the original
	// Rootfs identifies the root file system's image: its path can name another
	// one by the time the snapshot is restored.
	Rootfs FileMark `json:"rootfs,omitzero"`
	// IP and MAC are the guest's addresses, empty without a network.
	IP  string `json:"ip,omitempty"`
	MAC string `json:"mac,omitempty"`
	// Disks are the instance's further disks, in the order of Config.VM.Disks.
	Disks []SnapshotDisk `json:"disks,omitempty"`
}

// FileMark tells a file from another one of the same name: its size, and the
// SHA-256 of its first 64 KiB, where file systems keep their identity.
type FileMark struct {
	Size   int64  `json:"size"`
	Digest string `json:"digest"` // hexadecimal
}

// markedHead is how much of a file a FileMark looks at.
const markedHead = 64 << 10

// MarkFile reads the mark of a file.
func MarkFile(path string) (FileMark, error) {
	f, err := os.Open(path)
	if err != nil {
		return FileMark{}, err
	}
	defer f.Close()
	return MarkOpen(f)
}

// MarkOpen is MarkFile of an open file, whose offset stays.
func MarkOpen(f *os.File) (FileMark, error) {
	st, err := f.Stat()
	if err != nil {
		return FileMark{}, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, markedHead)); err != nil {
		return FileMark{}, err
	}
	return FileMark{Size: st.Size(), Digest: hex.EncodeToString(h.Sum(nil))}, nil
}

// SnapshotDisk is a disk of a snapshot.
type SnapshotDisk struct {
	// Name is the copy's file in the snapshot's directory; empty for a disk that
	// the guest cannot write, which stays where it is.
	Name string `json:"name,omitempty"`
}

// descriptionVersion is what Describe writes; any other is refused.
const descriptionVersion = 1

// Describe encodes d for a snapshot file.
func (d Description) Describe() (json.RawMessage, error) {
	d.Version = descriptionVersion
	return json.Marshal(d)
}

// ErrDescription is wrapped when a snapshot does not describe an instance.
var ErrDescription = errors.New("snapshot description not understood")

// ParseDescription decodes what Describe wrote. The bytes may come from anybody.
func ParseDescription(b []byte) (Description, error) {
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return Description{}, fmt.Errorf("%w: %w", ErrDescription, err)
	}
	if v.Version != descriptionVersion {
		return Description{}, fmt.Errorf("%w: it is of version %d, this build reads %d", ErrDescription, v.Version, descriptionVersion)
	}
	var d Description
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return Description{}, fmt.Errorf("%w: %w", ErrDescription, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Description{}, fmt.Errorf("%w: bytes after the end", ErrDescription)
	}
	switch {
	case d.Config == nil || d.Config.Spec == nil || d.Config.Spec.Process == nil:
		return Description{}, fmt.Errorf("%w: no configuration", ErrDescription)
	case len(d.Disks) != len(d.Config.VM.Disks):
		return Description{}, fmt.Errorf("%w: %d disks of %d", ErrDescription, len(d.Disks), len(d.Config.VM.Disks))
	}
	return d, nil
}
