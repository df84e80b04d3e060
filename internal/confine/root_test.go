package confine_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/confine"
	"github.com/hvctl/hvctl/internal/confine/hostile"
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

// A process with a user of its own opens what it was given, in directories that only
// root can enter, and nothing else of what its rules name; it is that user for good, on
// every thread.
func TestUserHasWhatItWasGiven(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := folder(t, "root's/", "root's/given/", "root's/given/file", "root's/file", "data/", "data/deep/", "data/deep/root's", "data/root's")
	at := func(name string) string { return filepath.Join(dir, name) }
	const user = 0x70004321
	o := order{Confine: true, Own: at("root's/given"), Target: hostile.Target{Secret: at("root's/file"), Folder: at("root's")}}
	want := []string{at("root's/given/file"), at("data/deep")}
	o.Look = append([]string{at("root's/file"), at("data/root's"), at("data/deep/root's"), at("stays")}, want...)
	o.Policy = confine.Policy{Starter: here(t), User: user, Groups: []int{user + 1}, Gives: []string{at("root's/given"), at("missing")}, GivesDirs: []string{at("data")}, Files: []confine.Rule{
		{Path: at("root's/given"), Access: confine.Read | confine.Write | confine.Create}, {Path: at("root's/file"), Access: confine.Read},
		{Path: at("data"), Access: confine.Read}, {Path: "/proc/self", Access: confine.Read}, {Path: dir, Access: confine.Read, Stays: true},
	}}
	a := ask(t, o)
	if a.Report.User != user || !slices.Equal(a.Seen, want) || len(a.Left) > 0 {
		t.Errorf("it sees %v, not %v, and cannot %v (%+v)", a.Seen, want, a.Left, a.Report)
	}
	for _, line := range []string{"\nUid:\t1879065377\t1879065377\t1879065377\t1879065377\n", "\nGid:\t1879065377\t1879065377\t1879065377\t1879065377\n", "\nGroups:\t1879065378 \n", "\nCapPrm:\t0000000000000000\n"} {
		if n := strings.Count(a.Status, line); n < 2 || n != strings.Count(a.Status, "\nName:") {
			t.Errorf("%d threads have %q:\n%s", n, line, a.Status)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(at("data/root's"), &st); err != nil || st.Uid != 0 {
		t.Errorf("a file that was not given: %v, %v", st.Uid, err)
	}
}

// Where no root directory can be made the process stays who it is, and so do its files.
func TestWithoutARootTheUserStays(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := folder(t, "own/", "own/file")
	file := filepath.Join(dir, "own/file")
	a := ask(t, order{Confine: true, Look: []string{file, dir}, Policy: confine.Policy{Starter: here(t), User: 0x70004321, Gives: []string{filepath.Join(dir, "own")}, Files: []confine.Rule{
		{Path: filepath.Join(dir, "own"), Access: confine.Read}, {Path: "/", Access: confine.Read}, {Path: dir, Access: confine.Read, Stays: true},
	}}})
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil || st.Uid != 0 || a.Report.User != 0 || a.Report.Root || !slices.Equal(a.Seen, []string{file, dir}) {
		t.Errorf("it sees %v, the file is user %d's, %v: %+v", a.Seen, st.Uid, err, a.Report)
	}
}
