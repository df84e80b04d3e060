package ociconf

import (
	"slices"
	"testing"
)

func TestJudge(t *testing.T) {
	const block = "  ---\n  {\n    \"error\": \"exit status 1\"\n  }\n  ...\n"
	for _, tc := range []struct {
		name, output string
		rc           int
		want         Outcome
	}{
		{"all tests ok", "TAP version 13\nok 1 - a\nok 2 # SKIP b\n1..2\n", 0, Outcome{Passed: true, OK: 2, Total: 2}},
		{"the error a test wanted", "ok 1 - fails as it must\n" + block + "1..1\n", 0, Outcome{Passed: true, OK: 1, Total: 1}},
		{"a failed test", "ok 1 - a\nnot ok 2 - b\n1..2\n", 0, Outcome{OK: 1, Total: 2, Failed: []string{"b"}}},
		{"an error without a test", "TAP version 13\n" + block + "1..0\n", 0, Outcome{Failed: []string{"error: exit status 1"}}},
		{"an error after a test's block", "ok 1 - a\n" + block + block, 0, Outcome{OK: 1, Total: 1, Failed: []string{"error: exit status 1"}}},
		{"no verdict at all", "TAP version 13\n1..0\n", 0, Outcome{Passed: true}},
		{"ends badly after its tests", "ok 1 - a\n1..1\n", 1, Outcome{OK: 1, Total: 1, Failed: []string{"exit status 1"}}},
		{"a description that says not ok", "ok 1 - not ok 2 - b\n", 0, Outcome{Passed: true, OK: 1, Total: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Judge([]byte(tc.output), tc.rc)
			if got.Passed != tc.want.Passed || got.OK != tc.want.OK || got.Total != tc.want.Total || !slices.Equal(got.Failed, tc.want.Failed) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestRegressionsNameWhatWasLost(t *testing.T) {
	want := map[string]Outcome{"kept": {Passed: true}, "lost": {Passed: true}, "gone": {Passed: true}, "never": {}}
	got := map[string]Outcome{"kept": {Passed: true}, "lost": {OK: 1, Total: 2, Failed: []string{"x"}}, "never": {}, "new": {}}
	lost := Regressions(want, got)
	if !slices.Equal(lost, []string{"gone: did not run", `lost: 1 of 2 tests, ["x"]`}) {
		t.Errorf("%q", lost)
	}
}

func TestLeftoverMatchesOnlyWhatTheSuiteMakes(t *testing.T) {
	for name, want := range map[string]bool{
		"testdir": true, "cgrouptest": true, "0e29d8be-3f8c-4d0e-9d2b-0a57e7dba3f6": true,
		"crun-0e29d8be-3f8c-4d0e-9d2b-0a57e7dba3f6": true, "libcrun-0e29d8be-3f8c-4d0e-9d2b-0a57e7dba3f6.scope": true,
		"hvctl": false, "testdirectory": false, "4e1b2a18fa94aed3447187a69300b78d": false, "user.slice": false,
	} {
		if got := leftover.MatchString(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
