package doctor_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/doctor"
)

// process makes a /proc with a process of two threads.
func process(t *testing.T, first, second string) string {
	t.Helper()
	sys := t.TempDir()
	for tid, text := range map[string]string{"7": first, "8": second} {
		dir := filepath.Join(sys, "proc", "7", "task", tid)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "status"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return sys
}

const (
	held  = "Name:\thvctl-vmm\nUid:\t1000\t1000\t1000\t1000\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t0\nCapAmb:\t0\nNoNewPrivs:\t1\nSeccomp:\t2\n"
	loose = "Name:\thvctl-vmm\nUid:\t0\t0\t0\t0\nCapInh:\t0\nCapPrm:\t1000\nCapEff:\t1000\nCapAmb:\t0\nNoNewPrivs:\t0\nSeccomp:\t0\n"
)

func TestSelfTellsWhatHoldsAProcess(t *testing.T) {
	confined := &doctor.Confinement{Landlock: 7, Seccomp: true, Root: true}
	for _, c := range []struct {
		name     string
		second   string
		said     *doctor.Confinement
		warnings map[string]string // by check: what it has to say
	}{
		{"a process that is confined", held, confined, nil},
		{"one with a thread that is not", loose, confined, map[string]string{
			"privileges": "1 of 2", "system calls": "1 of 2", "capabilities": "CAP_NET_ADMIN", "user": "root",
		}},
		{"one that says nothing", held, nil, map[string]string{"files": "all that its user", "root": "the host's root directory", "sockets": "it can", "programs": "it can"}},
		{"one with a user of its own", strings.ReplaceAll(held, "\t1000", "\t1900000000"), &doctor.Confinement{Landlock: 7, Seccomp: true, Root: true, User: 1900000000}, nil},
		{"one with a reason", held, &doctor.Confinement{Landlock: 7, Seccomp: true, Root: true, Sockets: true, Allows: []string{"because"}}, map[string]string{"sockets": "it can"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			checks, err := doctor.Self(process(t, held, c.second), 7, c.said)
			if err != nil {
				t.Fatal(err)
			}
			for _, check := range checks {
				want, warned := c.warnings[check.Name]
				if warned != (check.Status == doctor.Warn) || !strings.Contains(check.Detail, want) || check.Why == "" || warned && check.Fix == "" {
					t.Errorf("%+v, want a warning: %v %q", check, warned, want)
				}
			}
		})
	}
	if _, err := doctor.Self(t.TempDir(), 7, confined); err == nil {
		t.Error("a process that is not there is looked at")
	}
}
