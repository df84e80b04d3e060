package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOwnerLogIsBoundedAndKeepsItsBeginningAndEnd(t *testing.T) {
	name := filepath.Join(t.TempDir(), "owner.log")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600) // as launch does
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const limit = 8 << 10
	b := &boundedLog{f: f, max: limit}
	for i := range 10_000 {
		if _, err := fmt.Fprintf(b, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > limit+100 { // and the line that says what is missing
		t.Errorf("%d bytes, limit %d", len(text), limit)
	}
	if !strings.HasPrefix(string(text), "line 0\n") || !strings.HasSuffix(string(text), "line 9999\n") {
		t.Errorf("the log begins with %.20q and ends with %q", text, text[len(text)-20:])
	}
}
