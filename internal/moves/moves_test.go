package moves

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/plan"
)

// An instance that came, was offered another time in vain, and went in doubt: its
// files tell all of it when nobody lives who knows.
func TestHistoryIsReadFromFilesAlone(t *testing.T) {
	dir := t.TempDir()
	records, err := commit.OpenDir(filepath.Join(dir, ReceivedDir))
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	begin := time.Now().UTC()
	session := func(c string) string { return strings.Repeat(c, 32) }
	write := func(j commit.Journal, r commit.Record) {
		t.Helper()
		if err := commit.Store(j, r); err != nil {
			t.Fatal(err)
		}
	}
	write(records.Session(session("b")), commit.Record{Verdict: commit.OwnerRecord, Session: session("b"), Epoch: 3, VM: "web", Peer: "sha256:x", At: begin})
	write(records.Session(session("a")), commit.Record{Verdict: commit.RevokedRecord, Session: session("a"), Epoch: 2, VM: "web", Peer: "sha256:x\x1b[31m", At: begin.Add(-time.Hour)})
	write(commit.File(filepath.Join(dir, SentFile)), commit.Record{Verdict: commit.IntentRecord, Session: session("c"), Epoch: 4, VM: "web", Peer: "host2:7443", At: begin.Add(time.Hour)})
	a := Attempt{
		To: "host2:7443", Began: begin, Ended: begin.Add(time.Second), Error: "in doubt",
		Plan:   plan.Plan{Rows: []plan.Row{{Resource: plan.Resource{Kind: plan.RAM, Name: "ram"}, Action: plan.Move, Reason: "pre-copied"}}},
		Report: migrate.Report{Session: session("c"), Outcome: "in-doubt", Rounds: []migrate.RoundReport{{Pages: 4711}}},
	}
	if err := a.Keep(dir); err != nil {
		t.Fatal(err)
	}
	h, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range h.Records {
		got = append(got, string(r.Role)+" "+string(r.Verdict))
	}
	if want := "destination revoked, destination owner, source intent"; strings.Join(got, ", ") != want {
		t.Errorf("records: %v, want %s", got, want)
	}
	if h.Attempt == nil || h.Attempt.Report.Rounds[0].Pages != 4711 || h.Attempt.Plan.Action(plan.RAM, "ram") != plan.Move {
		t.Errorf("attempt: %+v", h.Attempt)
	}
	var out strings.Builder
	if err := h.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"in doubt: the destination may run it", "ended after 1s", "4711", "pre-copied", "host2:7443"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("a peer's control characters get to the terminal")
	}
}

func TestNothingOnRecordIsNoError(t *testing.T) {
	h, err := Read(t.TempDir())
	if err != nil || len(h.Records) > 0 || h.Attempt != nil {
		t.Fatalf("%+v, %v", h, err)
	}
	b, err := json.Marshal(h)
	if err != nil || !strings.Contains(string(b), `"records":[]`) {
		t.Errorf("%s, %v", b, err)
	}
}

// A damaged record is shown as one, beside those that can be read; a damaged account
// is an error that names the file.
func TestDamageIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, SentFile), []byte(`{"version":1,"verdict":"perhaps"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := Read(dir)
	if err != nil || len(h.Records) != 1 || !strings.Contains(h.Records[0].Error, "perhaps") || h.Records[0].Means != "" {
		t.Errorf("%+v, %v", h, err)
	}
	if err := os.WriteFile(filepath.Join(dir, attemptFile), []byte(`{"version":7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), attemptFile) || !strings.Contains(err.Error(), "version 7") {
		t.Errorf("a damaged account: %v", err)
	}
	if _, err := LoadAttempt(t.TempDir()); !errors.Is(err, ErrNone) {
		t.Errorf("no account: %v", err)
	}
}

// Only a guest that may be here keeps whoever waits for one from giving up.
func TestAGuestHasComeWhenItsRecordIsThere(t *testing.T) {
	session := strings.Repeat("a", 32)
	for verdict, want := range map[commit.Verdict]bool{commit.RevokedRecord: false, commit.OwnerRecord: true, "damaged": true, "": false} {
		dir := t.TempDir()
		records, err := commit.OpenDir(filepath.Join(dir, ReceivedDir))
		if err != nil {
			t.Fatal(err)
		}
		if verdict != "" {
			err = commit.Store(records.Session(session), commit.Record{Verdict: verdict, Session: session, Epoch: 1, VM: "web"})
		}
		h, rerr := Read(dir)
		if err != nil || rerr != nil || h.Came() != want {
			t.Errorf("%q: %v, %v, %v", verdict, h.Came(), err, rerr)
		}
		_ = records.Close()
	}
}

// FuzzAttempt: whatever the file has, it is an account that can be written again, or
// refused.
func FuzzAttempt(f *testing.F) {
	b, err := json.Marshal(Attempt{Version: attemptVersion, To: "host2:7443"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1}{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAttempt(b)
		if err != nil {
			return
		}
		if err := (History{Attempt: &a}).WriteTable(new(strings.Builder)); err != nil {
			t.Fatal(err)
		}
	})
}
