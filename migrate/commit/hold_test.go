package commit_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/migrate/commit"
)

// Whoever is moved, or may run elsewhere, does not run on here.
func TestWhoMayRunOn(t *testing.T) {
	dir := t.TempDir()
	if err := commit.MayRun(dir); err != nil {
		t.Error(err)
	}
	h, err := commit.TakeHold(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := commit.TakeHold(dir); !errors.Is(err, commit.ErrHeld) {
		t.Errorf("held twice: %v", err)
	}
	if err := commit.MayRun(dir); !errors.Is(err, commit.ErrHeld) {
		t.Errorf("while it is held: %v", err)
	}
	h.Release()
	for v, free := range map[commit.Verdict]bool{commit.IntentRecord: false, commit.HandedRecord: false, commit.KeptRecord: true} {
		if err := commit.Store(commit.File(filepath.Join(dir, commit.SentFile)), commit.Record{Verdict: v, Session: "s"}); err != nil {
			t.Fatal(err)
		}
		if err := commit.MayRun(dir); errors.Is(err, commit.ErrHeld) == free {
			t.Errorf("with %s on record: %v", v, err)
		}
	}
}
