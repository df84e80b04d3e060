package moves

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/commit"
)

// Role is the part that an instance's owner had in a session.
type Role string

// The roles.
const (
	Source      Role = "source"
	Destination Role = "destination"
)

// Entry is one record on disk.
type Entry struct {
	Role Role `json:"role"`
	commit.Record
	Means string `json:"means"`
	// Error says why the record cannot be read; then it says nothing, and nobody may
	// run the guest by it.
	Error string `json:"error,omitempty"`
}

// History is all that is known of an instance's migrations.
type History struct {
	Instance string  `json:"instance"`
	Name     string  `json:"name"`
	Records  []Entry `json:"records"`
	// Now is what the owner says, while there is one and it has sent or sends.
	Now     *workload.MigrationStatus `json:"now,omitempty"`
	Attempt *Attempt                  `json:"attempt,omitempty"` // nil: none was made here
}

// means says what a verdict is for the guest (docs/migration-protocol.md, section 5).
var means = map[commit.Verdict]string{
	commit.IntentRecord:  "in doubt: the destination may run it, so it stands still here until that answers or `hvctl migrate resolve` decides",
	commit.HandedRecord:  "it was handed over, and is never started here again",
	commit.KeptRecord:    "it stayed here: the destination has promised never to run it",
	commit.OwnerRecord:   "it came here, and is this instance",
	commit.RevokedRecord: "it will never run here: the offer came to nothing",
}

// Read collects what lies in an instance's directory. Records that cannot be read
// are entries with an error. Nothing is changed, and the owner may be at work.
func Read(dir string) (h History, err error) {
	files, err := os.ReadDir(filepath.Join(dir, ReceivedDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	h.Records = []Entry{}
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".json" {
			continue
		}
		if e := entry(Destination, filepath.Join(dir, ReceivedDir, f.Name())); e != nil {
			h.Records = append(h.Records, *e)
		}
	}
	slices.SortStableFunc(h.Records, func(a, b Entry) int { return a.At.Compare(b.At) })
	if e := entry(Source, filepath.Join(dir, SentFile)); e != nil { // it came before it went
		h.Records = append(h.Records, *e)
	}
	switch a, err := LoadAttempt(dir); {
	case err == nil:
		h.Attempt = &a
	case !errors.Is(err, ErrNone):
		return h, err
	}
	return h, nil
}

// entry reads one record; nil when there is none.
func entry(role Role, path string) *Entry {
	r, err := commit.File(path).Load()
	switch {
	case errors.Is(err, commit.ErrNoRecord):
		return nil
	case err != nil:
		return &Entry{Role: role, Error: err.Error()}
	}
	return &Entry{Role: role, Record: r, Means: means[r.Verdict]}
}

// Came tells whether the instance has taken the right to run a guest. A record that
// cannot be read may say so.
func (h History) Came() bool {
	return slices.ContainsFunc(h.Records, func(e Entry) bool {
		return e.Role == Destination && (e.Error != "" || e.Verdict == commit.OwnerRecord)
	})
}
