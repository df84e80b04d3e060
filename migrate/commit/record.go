package commit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoRecord is returned by Load when nothing was written yet.
	ErrNoRecord = errors.New("no migration record")
	// ErrRecord is wrapped when a record cannot be understood. Nobody may run the
	// machine before somebody has looked.
	ErrRecord = errors.New("unreadable migration record")
	// ErrBusy is wrapped by OpenDir when another process decides there.
	ErrBusy = errors.New("another process receives migrations here")
)

// Verdict is what a record says (docs/migration-protocol.md, section 5).
type Verdict string

// The verdicts of a source (the first three) and of a destination.
const (
	IntentRecord  Verdict = "intent"
	HandedRecord  Verdict = "handed"
	KeptRecord    Verdict = "kept"
	OwnerRecord   Verdict = "owner"
	RevokedRecord Verdict = "revoked"
)

// recordVersion is the version of the file's form.
const recordVersion = 1

// maxRecord bounds the file, in bytes.
const maxRecord = 16 << 10

// Record is a decision, as it is on disk.
type Record struct {
	Version int       `json:"version"`
	Verdict Verdict   `json:"verdict"`
	Session string    `json:"session"`
	Epoch   uint32    `json:"epoch"`
	VM      string    `json:"vm"`
	Peer    string    `json:"peer,omitempty"` // where the other side can be asked
	At      time.Time `json:"at"`
}

// Journal keeps the one record of a side.
type Journal interface {
	// Load returns the record, or an error wrapping ErrNoRecord or ErrRecord.
	Load() (Record, error)
	// Stage makes everything ready to replace it, so that the slow part of it lies
	// before the moment that counts.
	Stage(Record) (Staged, error)
}

// Staged is a record that is not valid yet.
type Staged interface {
	// Publish makes it the record. When it returns nil the record survives a
	// crash; after an error either may be there. It may be called again.
	Publish() error
	// Discard forgets it, if it was not published.
	Discard()
}

// Store stages and publishes.
func Store(j Journal, r Record) error {
	s, err := j.Stage(r)
	if err != nil {
		return err
	}
	defer s.Discard()
	return s.Publish()
}

// File is a Journal in a file of its own. The folder exists.
type File string

// Load implements Journal.
func (f File) Load() (r Record, err error) {
	file, err := os.Open(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%w: %s", ErrNoRecord, string(f))
	}
	if err != nil {
		return r, err
	}
	b, err := io.ReadAll(io.LimitReader(file, maxRecord+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return r, err
	}
	if len(b) > maxRecord {
		return r, fmt.Errorf("%w: %s has more than %d bytes", ErrRecord, string(f), maxRecord)
	}
	if err := decode(b, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %s: %w", ErrRecord, string(f), err)
	}
	return r, nil
}

func decode(b []byte, r *Record) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes follow the record")
	}
	switch r.Verdict {
	case IntentRecord, HandedRecord, KeptRecord, OwnerRecord, RevokedRecord:
	default:
		return fmt.Errorf("unknown verdict %q", r.Verdict)
	}
	if r.Version != recordVersion {
		return fmt.Errorf("version %d, this build knows %d", r.Version, recordVersion)
	}
	return nil
}

// Stage implements Journal: the record is on disk under another name.
func (f File) Stage(r Record) (Staged, error) {
	r.Version = recordVersion
	if r.At.IsZero() {
		r.At = time.Now().UTC()
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(string(f)), ".record-*")
	if err != nil {
		return nil, err
	}
	s := &stagedFile{tmp: tmp.Name(), path: string(f)}
	_, err = tmp.Write(append(b, '\n'))
	if err = errors.Join(err, giveAsFolder(tmp), tmp.Sync(), tmp.Close()); err != nil {
		s.Discard()
		return nil, err
	}
	return s, nil
}

// stagedFile is a file that shall have another name.
type stagedFile struct {
	tmp, path string
	renamed   bool
}

// Publish implements Staged.
func (s *stagedFile) Publish() error {
	if !s.renamed {
		if err := os.Rename(s.tmp, s.path); err != nil {
			return err
		}
		s.renamed = true
	}
	d, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Discard implements Staged.
func (s *stagedFile) Discard() {
	if !s.renamed {
		_ = os.Remove(s.tmp)
	}
}

// Dir is a destination's folder of records, one file per session. Its lock
// makes the process that opened it the only one to decide.
type Dir struct {
	path string
	lock *os.File
}

// OpenDir makes the folder if need be and locks it. An error wraps ErrBusy
// when another process has it.
func OpenDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrBusy, path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, os.NewSyscallError("flock", err))
	}
	return &Dir{path: path, lock: lock}, nil
}

// Session returns the journal of a session. The name has been checked to be
// one (lower-case hexadecimal): it becomes a file's name.
func (d *Dir) Session(id string) Journal { return File(filepath.Join(d.path, id+".json")) }

// Sessions returns how many sessions have a record.
func (d *Dir) Sessions() (n int, err error) {
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".json" {
			n++
		}
	}
	return n, err
}

// Close gives the lock up.
func (d *Dir) Close() error { return d.lock.Close() }
