package criu

import (
	"strings"
	"testing"
)

func TestComplaintIsTheFirstError(t *testing.T) {
	for log, want := range map[string]string{
		"":                                "",
		"(00.1) Warn  (criu/x.c:1): no\n": "",
		"(00.1) all is well\n(00.2)      1: Error (criu/mount.c:7): mnt: first\n(00.3) Error (criu/cr.c:2): second\n": "mnt: first",
		"Error (cut":              "Error (cut",
		"Error (a.c:1): \xff\xfe": "?",
		"Error (a.c:1): " + strings.Repeat("x", 1000): strings.Repeat("x", 300),
	} {
		if got := Complaint([]byte(log)); got != want {
			t.Errorf("%q: %q, want %q", log, got, want)
		}
	}
}
