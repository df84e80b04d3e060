package moves

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

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/plan"
)

// Names in an instance's directory.
const (
	// SentFile is the source's record (commit.File): to whom the right to run the
	// guest was given.
	SentFile = commit.SentFile
	// ReceivedDir is the folder with the destination's records (commit.Dir).
	ReceivedDir = "migrations"
	attemptFile = "migration-report.json"
)

const (
	attemptVersion = 1
	// maxAttempt bounds the file, in bytes: a plan of 1024 rows, and rounds.
	maxAttempt = 4 << 20
)

// ErrNone is returned by LoadAttempt where nothing was tried.
var ErrNone = errors.New("no attempt is on record")

// Attempt is the latest attempt to send an instance away, as far as it has got.
type Attempt struct {
	Version int            `json:"version"`
	To      string         `json:"to"`
	Began   time.Time      `json:"began"`
	Ended   time.Time      `json:"ended,omitzero"` // zero while it goes on, or when its owner was killed
	Error   string         `json:"error,omitempty"`
	Plan    plan.Plan      `json:"plan"`
	Report  migrate.Report `json:"report"`
}

// Keep writes the account of an attempt into an instance's directory, in place of
// the one before. It need not survive a crash of the host, for nobody acts by it.
func (a Attempt) Keep(dir string) error {
	a.Version = attemptVersion
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".report-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(b, '\n'))
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, attemptFile))
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// LoadAttempt reads what Keep wrote, or returns ErrNone.
func LoadAttempt(dir string) (Attempt, error) {
	f, err := os.Open(filepath.Join(dir, attemptFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Attempt{}, ErrNone
	}
	if err != nil {
		return Attempt{}, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAttempt+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Attempt{}, err
	}
	a, err := parseAttempt(b)
	if err != nil {
		return Attempt{}, fmt.Errorf("%s: %w; it is an account only, and may be removed", f.Name(), err)
	}
	return a, nil
}

func parseAttempt(b []byte) (a Attempt, err error) {
	if len(b) > maxAttempt {
		return a, fmt.Errorf("more than %d bytes", maxAttempt)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return Attempt{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Attempt{}, errors.New("bytes follow the account")
	}
	if a.Version != attemptVersion {
		return Attempt{}, fmt.Errorf("version %d, this build knows %d", a.Version, attemptVersion)
	}
	return a, nil
}
