package commit_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/migrate/commit"
)

func TestMachineDoesTheRowsActionsInOrder(t *testing.T) {
	broken := errors.New("disk full")
	for _, tc := range []struct {
		name  string
		table commit.Table
		from  commit.State
		on    commit.Event
		fail  commit.Action
		to    commit.State
		did   []commit.Action
	}{
		{
			"takes over", commit.Destination, commit.Ready, commit.GotGo, "", commit.Running,
			[]commit.Action{commit.TakeLocks, commit.WriteOwner, commit.ResumeGuest, commit.SendRunning},
		},
		{
			"revokes when the locks are held", commit.Destination, commit.Ready, commit.GotGo, commit.TakeLocks, commit.Revoked,
			[]commit.Action{commit.TakeLocks, commit.WriteRevoked, commit.ReleaseLocks, commit.DropGuest, commit.SendRevoked},
		},
		{
			"revokes when the guest does not start", commit.Destination, commit.Ready, commit.GotQuery, commit.ResumeGuest, commit.Revoked,
			[]commit.Action{commit.TakeLocks, commit.WriteOwner, commit.ResumeGuest, commit.WriteRevoked, commit.ReleaseLocks, commit.DropGuest, commit.SendRevoked},
		},
		{
			"promises nothing it cannot write", commit.Destination, commit.Ready, commit.Expired, commit.WriteRevoked, commit.Stuck,
			[]commit.Action{commit.WriteRevoked},
		},
		{
			"commits", commit.Source, commit.Paused, commit.GotReady, "", commit.Committed,
			[]commit.Action{commit.WriteIntent, commit.SendGo},
		},
		{
			"sends no GO without the record", commit.Source, commit.Paused, commit.GotReady, commit.WriteIntent, commit.Revoking,
			[]commit.Action{commit.WriteIntent, commit.SendAbort},
		},
		{"ignores what is not in the table", commit.Source, commit.InDoubt, commit.Fail, "", commit.InDoubt, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var did []commit.Action
			m := commit.NewMachine(tc.table, tc.from, func(a commit.Action) error {
				did = append(did, a)
				if a == tc.fail {
					return broken
				}
				return nil
			})
			err := m.Fire(tc.on)
			if m.State() != tc.to || !slices.Equal(did, tc.did) {
				t.Errorf("did %q and is %s, want %q and %s", did, m.State(), tc.did, tc.to)
			}
			if (tc.fail != "") != errors.Is(err, broken) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestTablesNameEachCaseOnce(t *testing.T) {
	for name, table := range map[string]commit.Table{"source": commit.Source, "destination": commit.Destination} {
		seen := map[string]bool{}
		for _, r := range table {
			if key := string(r.From) + "/" + string(r.On); seen[key] {
				t.Errorf("%s: two rows for %s", name, key)
			} else {
				seen[key] = true
			}
			if r.Follow {
				if _, ok := table.Find(r.To, commit.Done); !ok {
					t.Errorf("%s: %s waits for an end that no row takes up", name, r.To)
				}
				if _, ok := table.Find(r.To, commit.Failed); !ok {
					t.Errorf("%s: %s has no row for a failure", name, r.To)
				}
			}
		}
	}
}

func TestSpecificationListsTheTables(t *testing.T) {
	b, err := os.ReadFile("../../docs/migration-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for _, table := range []commit.Table{commit.Source, commit.Destination} {
		for _, r := range table {
			name := strings.ReplaceAll(string(r.From), "in-doubt", "in doubt")
			var do []string
			for _, a := range r.Do {
				do = append(do, string(a))
			}
			want := strings.Join(do, ", ")
			found := slices.ContainsFunc(strings.Split(doc, "\n"), func(line string) bool {
				cells := strings.Split(line, "|")
				return len(cells) == 6 && strings.Contains(cells[1], name) &&
					strings.TrimSpace(cells[3]) == strings.ReplaceAll(string(r.To), "in-doubt", "in doubt") &&
					(want == "" || strings.TrimSpace(cells[4]) == want)
			})
			if !found {
				t.Errorf("section 5 has no row %s -> %s: %s", name, r.To, want)
			}
		}
	}
}

func TestRecordsSurviveAndStrangeOnesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	f := commit.File(path)
	if _, err := f.Load(); !errors.Is(err, commit.ErrNoRecord) {
		t.Fatalf("no file: %v", err)
	}
	want := commit.Record{Verdict: commit.IntentRecord, Session: "ab", Epoch: 3, VM: "web", Peer: "h2:7443"}
	if err := commit.Store(f, want); err != nil {
		t.Fatal(err)
	}
	got, err := f.Load()
	if err != nil || got.Session != "ab" || got.Epoch != 3 || got.Peer != "h2:7443" || got.At.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	for name, text := range map[string]string{
		"empty":           "",
		"cut off":         `{"version":1,"verdict":"int`,
		"unknown verdict": `{"version":1,"verdict":"mine"}`,
		"newer":           `{"version":2,"verdict":"intent"}`,
		"unknown field":   `{"version":1,"verdict":"intent","x":1}`,
		"two records":     `{"version":1,"verdict":"intent"}{}`,
		"huge":            `{"version":1,"verdict":"intent","vm":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Load(); !errors.Is(err, commit.ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := commit.Store(commit.File(filepath.Join(t.TempDir(), "none", "record")), want); err == nil {
		t.Error("stored in a folder that is not there")
	}
}

func TestStagedRecordsCountOnlyWhenPublished(t *testing.T) {
	dir := t.TempDir()
	f := commit.File(filepath.Join(dir, "record"))
	s, err := f.Stage(commit.Record{Verdict: commit.IntentRecord, Session: "ab"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(); !errors.Is(err, commit.ErrNoRecord) {
		t.Errorf("staged: %v", err)
	}
	s.Discard()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := s.Publish(); err == nil {
		t.Error("published what was discarded")
	}
	if s, err = f.Stage(commit.Record{Verdict: commit.IntentRecord, Session: "cd"}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Publish(), s.Publish()); err != nil {
		t.Error(err)
	}
	s.Discard()
	if r, err := f.Load(); err != nil || r.Session != "cd" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestOneProcessDecidesPerFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records")
	d, err := commit.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := commit.OpenDir(path); !errors.Is(err, commit.ErrBusy) {
		t.Errorf("second: %v", err)
	}
	if err := commit.Store(d.Session("0a"), commit.Record{Verdict: commit.OwnerRecord}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = commit.OpenDir(path); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if r, err := d.Session("0a").Load(); err != nil || r.Verdict != commit.OwnerRecord {
		t.Errorf("%+v, %v", r, err)
	}
	if n, err := d.Sessions(); n != 1 || err != nil {
		t.Errorf("%d sessions, %v", n, err)
	}
	if _, err := d.Session("0b").Load(); !errors.Is(err, commit.ErrNoRecord) {
		t.Errorf("another session: %v", err)
	}
}
