package ociconf

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func results(ours map[string]Outcome) *Results {
	return &Results{Mode: "hybrid-v1", Kernel: "Linux 1", Suite: "v0", Runtimes: []Runtime{{Name: "runc", Programs: ours}, {Name: Ours, Programs: ours}}}
}

func TestTableWantsAReasonForEachFailure(t *testing.T) {
	_, err := Table([]*Results{results(map[string]Outcome{"create": {Total: 1}})})
	if err == nil || !strings.Contains(err.Error(), "create does not pass and has no explanation") {
		t.Errorf("err %v", err)
	}
}

func TestTableRefusesAReasonForASuccess(t *testing.T) {
	_, err := Table([]*Results{results(map[string]Outcome{reasons[0].program: {Passed: true}})})
	if err == nil || !strings.Contains(err.Error(), "passes but has an explanation") {
		t.Errorf("err %v", err)
	}
}

func TestTablePutsOneRowPerProgram(t *testing.T) {
	page, err := Table([]*Results{results(map[string]Outcome{"create": {Passed: true, OK: 3, Total: 3}})})
	if err != nil || !bytes.Contains(page, []byte("| create | pass | pass |")) || !bytes.Contains(page, []byte("**1 of 1** | **1 of 1** |")) {
		t.Errorf("err %v, page:\n%s", err, page)
	}
}

// TestPageIsMadeOfTheResults: docs/conformance.md is what the files in
// docs/results say.
func TestPageIsMadeOfTheResults(t *testing.T) {
	const docs = "../../docs"
	files, err := filepath.Glob(docs + "/results/conformance-*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no results: %v", err)
	}
	var all []*Results
	for _, f := range files {
		r, err := Load(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	want, err := Table(all)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(docs + "/conformance.md")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("docs/conformance.md is not what scripts/conformance table makes (err %v)", err)
	}
}
