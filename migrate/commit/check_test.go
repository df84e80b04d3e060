package commit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNeverTwoRunnersAndNoGuestLost(t *testing.T) {
	for _, how := range []struct{ loose, later bool }{{false, false}, {true, false}, {true, true}} {
		t.Run(fmt.Sprintf("loose %v, post-copy %v", how.loose, how.later), func(t *testing.T) {
			m := model{src: Source, dst: Destination, loose: how.loose, later: how.later}
			begin := time.Now()
			n := m.explore(1 << 23)
			t.Logf("%d worlds, %d steps between them, in %v", n, len(m.edges), time.Since(begin).Round(time.Millisecond))
			if m.bad != "" {
				t.Fatal(m.bad)
			}
			if n < 100_000 || n >= 1<<23 {
				t.Errorf("%d worlds were seen: too few to mean anything, or not all", n)
			}
		})
	}
}

// replace returns t with r instead of its row for the same state and event.
func replace(t Table, r Row) Table {
	t = slices.Clone(t)
	i := slices.IndexFunc(t, func(o Row) bool { return o.From == r.From && o.On == r.On })
	if i < 0 {
		return append(t, r)
	}
	t[i] = r
	return t
}

// A check that cannot fail proves nothing: every broken rule here is one that
// a real product has had, or that somebody will think harmless.
func TestTheCheckFindsBrokenRules(t *testing.T) {
	for _, tc := range []struct {
		name string
		src  []Row
		dst  []Row
		want string
	}{
		{"source resumes on silence", []Row{{From: Committed, On: Silence, To: Kept, Do: []Action{TakeLocks, ResumeGuest}}}, nil, "two runners"},
		{"source resumes in doubt", []Row{{From: InDoubt, On: Retry, To: Kept, Do: []Action{TakeLocks, ResumeGuest}}}, nil, "two runners"},
		{"source resumes when the intent was not written", []Row{{From: Intending, On: Failed, To: Kept, Do: []Action{SendAbort, TakeLocks, ResumeGuest}}}, nil, "runs on from memory older"},
		{"GO before the intent record", []Row{{From: Paused, On: GotReady, To: Intending, Do: []Action{SendGo, WriteIntent}, Follow: true}}, nil, ""},
		{"no intent record", []Row{{From: Paused, On: GotReady, To: Committed, Do: []Action{SendGo}}}, nil, ""},
		{"source resumes without locks", []Row{{From: Paused, On: Fail, To: Kept, Do: []Action{SendAbort, ResumeGuest}}}, nil, "without its locks"},
		{"source destroys at READY", []Row{{From: Paused, On: GotReady, To: Handed, Do: []Action{SendGo, DropGuest}}}, nil, ""},
		{"source destroys at GO", []Row{{From: Intending, On: Done, To: Committed, Do: []Action{SendGo, DropGuest}}}, nil, "last copy"},
		{"destination runs on READY", nil, []Row{{From: Receiving, On: Loaded, To: Resuming, Do: []Action{TakeLocks, ResumeGuest, SendReady}, Follow: true}}, ""},
		{"destination runs when time is up", nil, []Row{{From: Ready, On: Expired, To: Taking, Do: take, Follow: true}}, "two runners"},
		{"destination runs without an owner record", nil, []Row{{From: Ready, On: GotGo, To: Resuming, Do: []Action{TakeLocks, ResumeGuest}, Follow: true}}, ""},
		{"owner record after the resume", nil, []Row{{From: Ready, On: GotGo, To: Running, Do: []Action{TakeLocks, ResumeGuest, WriteOwner, SendRunning}}}, ""},
		{"destination runs without locks", nil, []Row{{From: Ready, On: GotGo, To: Taking, Do: []Action{WriteOwner}, Follow: true}}, "without its locks"},
		{"REVOKED before its record", nil, []Row{{From: Taking, On: Failed, To: Revoking, Do: []Action{SendRevoked, WriteRevoked}, Follow: true}}, "two runners"},
		{"REVOKED although its record failed", nil, []Row{{From: Revoking, On: Failed, To: Revoked, Do: []Action{ReleaseLocks, DropGuest, SendRevoked}}}, "two runners"},
		{"RUNNING before the resume", nil, []Row{{From: Taking, On: Done, To: Resuming, Do: []Action{SendRunning, ResumeGuest}, Follow: true}}, "last copy"},
		{"revoked guest kept locked", nil, []Row{{From: Revoking, On: Done, To: Revoked, Do: []Action{DropGuest, SendRevoked}}}, "no way to an end"},
		{"revoked, but QUERY is not answered", nil, []Row{{From: Revoked, On: GotQuery, To: Revoked}}, "no way to an end"},
		{"source never asks", []Row{{From: Committed, On: Silence, To: InDoubt}, {From: InDoubt, On: Retry, To: InDoubt}}, nil, "no way to an end"},
		{"post-copy: source destroys at RUNNING", []Row{{From: Committed, On: RunsLacking, To: Handed, Do: handed}}, nil, "last copy"},
		{"post-copy: source resumes while it serves", []Row{{From: Serving, On: Retry, To: Kept, Do: []Action{TakeLocks, ResumeGuest}}}, nil, "two runners"},
		{"post-copy: source resumes when the guest is lost", []Row{{From: Serving, On: GotLost, To: Kept, Do: keep}}, nil, ""},
		{"post-copy: source forgets who has served", []Row{{From: Serving, On: GotDrained, To: Serving}}, []Row{{From: Running, On: Drained, To: Running, Do: []Action{DropGuest, SendDrained}}}, "last copy"},
		{"post-copy: DRAINED before the pages", nil, []Row{{From: Resuming, On: Done, To: Running, Do: []Action{SendRunning, SendDrained}}}, "last copy"},
		{"post-copy: nobody learns of a lost guest", []Row{{From: Serving, On: GotLost, To: Serving}}, nil, "no way to an end"},
		{"post-copy: a guest waits for ever for a source that is gone", nil, []Row{{From: Running, On: SourceGone, To: Running}, {From: Ended, On: GotQuery, To: Ended}, {From: Running, On: GotQuery, To: Running}}, "no way to an end"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src, dst := Source, Destination
			for _, r := range tc.src {
				src = replace(src, r)
			}
			for _, r := range tc.dst {
				dst = replace(dst, r)
			}
			// What concerns the locks shows only where they are one for both.
			m := model{src: src, dst: dst, loose: !strings.Contains(tc.name, "lock"), later: strings.HasPrefix(tc.name, "post-copy")}
			m.explore(1 << 22)
			if m.bad == "" || !strings.Contains(m.bad, tc.want) {
				t.Errorf("the check says %q, want %q", m.bad, tc.want)
			}
			t.Log(strings.SplitN(m.bad, "\n", 2)[0])
		})
	}
}
