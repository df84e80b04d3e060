package instance

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
)

// TestHalfALineSwallowsNoEvent: what a killed owner left without an end does
// not become part of the next event.
func TestHalfALineSwallowsNoEvent(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	i, err := s.Create(&workload.Config{Name: "n"}, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Unlock()
	path := filepath.Join(s.root, eventsFile)
	add := func(line string) {
		t.Helper()
		if err := i.AppendEvent([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	add("one")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("ha"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	add("two")
	add("three")
	var got []string
	if err := s.ReadEvents(t.Context(), false, nil, func(line []byte) error {
		got = append(got, string(line))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"one", "ha", "two", "three"}; !slices.Equal(got, want) {
		t.Errorf("lines %q, want %q", got, want)
	}
}
