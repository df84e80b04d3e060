package confine_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/confine"
	"github.com/hvctl/hvctl/internal/testenv"
)

// folder makes directories and files, whose names end without a slash, and links.
func folder(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		var err error
		switch name, to, link := strings.Cut(n, " -> "); {
		case link:
			err = os.Symlink(filepath.Join(dir, to), filepath.Join(dir, name))
		case strings.HasSuffix(n, "/"):
			err = os.MkdirAll(filepath.Join(dir, n), 0o700)
		default:
			err = os.WriteFile(filepath.Join(dir, n), nil, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What the rules name is in the new root, whatever way leads there: through links and
// mounts that lie in what another rule names, too.
func TestRootHasWhatTheRulesName(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := folder(t, "vm/", "vm/own", "vm/mount/", "big/", "big/disk", "big/other", "vm/disk -> big/disk", "vm/loose -> big/other", "ro/", "ro/file", "ro/rw/")
	at := func(name string) string { return filepath.Join(dir, name) }
	want := []string{"vm/own", "vm/mount/inside", "vm/disk", "ro/file", "ro/rw"}
	o := order{Confine: true, Mount: at("vm/mount")}
	for _, n := range append(want, "vm/loose", "big/other") {
		o.Look = append(o.Look, at(n))
	}
	o.Policy = confine.Policy{Starter: here(t), Files: []confine.Rule{
		{Path: at("vm"), Access: confine.Read | confine.Write}, {Path: at("vm/disk"), Access: confine.Read | confine.Write},
		{Path: at("vm/mount/inside"), Access: confine.Read}, {Path: at("ro"), Access: confine.Read}, {Path: at("ro/rw"), Access: confine.Read | confine.Create},
	}}
	a := ask(t, o)
	for i, n := range want {
		want[i] = at(n)
	}
	if !a.Report.Root || !slices.Equal(a.Seen, want) {
		t.Errorf("it sees %v, not %v (%+v)", a.Seen, want, a.Report)
	}
}

// A root that cannot be made leaves the one that is there, and that is told.
func TestRootThatCannotBeMadeIsReported(t *testing.T) {
	testenv.Require(t, testenv.Root)
	look := []string{"/", "/dev/null"}
	a := ask(t, order{Confine: true, Look: look, Policy: confine.Policy{Starter: here(t), Files: []confine.Rule{{Path: "/", Access: confine.Read}}}})
	if a.Report.Root || len(a.Report.Missing) == 0 || !strings.Contains(a.Report.Missing[0], "stays the host's") || !slices.Equal(a.Seen, look) {
		t.Errorf("it sees %v: %+v", a.Seen, a.Report)
	}
}
