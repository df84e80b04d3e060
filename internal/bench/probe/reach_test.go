package probe

import (
	"os"
	"strings"
	"testing"
)

// What this process gets at of the machine it runs on is told fact by fact, and
// leaves nothing behind.
func TestReachTellsEveryAttempt(t *testing.T) {
	self, err := Mark()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	got := map[string]string{}
	for _, f := range Reach(dir, self) {
		if _, twice := got[f.Name]; twice {
			t.Errorf("%s twice", f.Name)
		}
		got[f.Name] = f.Value
	}
	for name, want := range map[string]string{Process: In, BootID: "", "namespace pid": "pid:[", "memory": "MemTotal", "open /dev/mem": ""} {
		if v, ok := got[name]; !ok || v == "" || !strings.HasPrefix(v, want) {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	for _, f := range Reach(dir, "nobody@0") {
		if f.Name == Process && f.Value != Out+"none is seen" {
			t.Errorf("a process that is not there: %q", f.Value)
		}
	}
}
