package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
)

func TestParsePmem(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for in, ro := range map[string]bool{file: false, "path=" + file: false, file + ",ro": true, "path=" + file + ",ro=on": true, file + ",ro=off": false} {
		if m, err := parsePmem(in); err != nil || m != (workload.Pmem{Path: file, ReadOnly: ro}) {
			t.Errorf("%q: %+v, %v", in, m, err)
		}
	}
	for in, want := range map[string]string{
		"": "no path", "ro": "no path", file + ",size=1": "size=1", file + ",ro=maybe": "ro=maybe", file + "x": "no such file", filepath.Dir(file): "no regular file",
	} {
		if _, err := parsePmem(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}
