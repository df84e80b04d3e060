package microvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
)

// A guest that comes has the directories that this side's user lends, and of those only what the
// plan names.
func TestDirectoriesAreLentByThisSide(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	row := func(kind plan.Kind, action plan.Action, arg string) plan.Plan {
		return plan.Plan{Rows: []plan.Row{{Resource: plan.Resource{Kind: kind, Name: "/data"}, Action: action, Arg: arg}}}
	}
	all := []workload.Lent{{Path: dir}, {Path: "/none"}, {Path: file}, {Path: "/usr", ReadOnly: true}}
	for _, tt := range []struct {
		plan    plan.Plan
		options []string
		source  string
		says    string
	}{
		{row(plan.DirRW, plan.Rebind, dir), nil, dir, ""},
		{row(plan.DirRO, plan.Rebind, "/usr"), []string{"ro"}, "/usr", ""},
		{row(plan.DirRO, plan.Rebind, dir), []string{"ro"}, dir, ""},
		{row(plan.DirRW, plan.Rebind, "/usr"), nil, "", "reading only"},
		{row(plan.DirRO, plan.Rebind, dir), nil, "", "of the source's host"}, // it says ro, and writes
		{row(plan.DirRW, plan.Rebind, "/etc"), nil, "", "not lent"},
		{row(plan.DirRW, plan.Rebind, dir+"/sub"), nil, "", "not lent"},
		{row(plan.DirRW, plan.Rebind, dir+"/../"+filepath.Base(dir)), nil, "", "not lent"},
		{row(plan.DirRW, plan.Rebind, ""), nil, "", "not lent"},
		{row(plan.DirRW, plan.Rebind, "/none"), nil, "", "no such directory"},
		{row(plan.DirRW, plan.Rebind, file), nil, "", "no such directory"},
		{row(plan.DirRW, plan.Refuse, dir), nil, "", "of the source's host"},
		{plan.Plan{}, nil, "", "of the source's host"},
	} {
		mounts := []specs.Mount{{Destination: "/data", Type: "bind", Source: "/theirs", Options: tt.options}}
		err := lend(mounts, tt.plan, all)
		if tt.says == "" && (err != nil || mounts[0].Source != tt.source) || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%+v %v: %v, %s; want %q", tt.plan.Rows, tt.options, err, mounts[0].Source, tt.says)
		}
	}
}

func TestADirectoryThatLacksWhatTheGuestHoldsIsUnfit(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	all := []workload.Lent{{Path: dir}}
	name := func(path string, kind uint32) hostdir.Name { return hostdir.Name{Path: []byte(path), Kind: kind} }
	for _, tt := range []struct {
		files []hostdir.Name
		says  string
	}{
		{nil, ""},
		{[]hostdir.Name{name("there", unix.S_IFREG), name("link", unix.S_IFLNK), name(".", unix.S_IFDIR)}, ""},
		{[]hostdir.Name{name("there", unix.S_IFDIR)}, `lacks "there"`},
		{[]hostdir.Name{name("gone", unix.S_IFREG), name("there", unix.S_IFREG), name("too", unix.S_IFREG)}, `lacks "gone" and 1 more`},
		{[]hostdir.Name{name("link/passwd", unix.S_IFREG)}, `lacks "link/passwd"`},
		{[]hostdir.Name{name("../etc", unix.S_IFDIR)}, "name"},
	} {
		if why := unfit(all, wantedDir{Path: dir, Files: tt.files}); (why == "") != (tt.says == "") || !strings.Contains(why, tt.says) {
			t.Errorf("%+v: %q, want %q", tt.files, why, tt.says)
		}
	}
	if why := unfit(nil, wantedDir{Path: dir}); !strings.Contains(why, "--share "+dir) {
		t.Errorf("not lent: %q", why)
	}
}

// FuzzWanted has a peer ask for anything: what it says the guest holds is looked for below
// the directory, and nowhere else.
func FuzzWanted(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there"), nil, 0o600); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("there"), uint32(unix.S_IFREG))
	f.Add([]byte("../x"), uint32(unix.S_IFDIR))
	f.Add([]byte("a/./b//"), uint32(0))
	f.Fuzz(func(t *testing.T, path []byte, kind uint32) {
		d := wantedDir{Path: dir, Files: []hostdir.Name{{Path: path, Kind: kind}}}
		fits := unfit([]workload.Lent{{Path: dir}}, d) == ""
		if s := string(path); fits != (s == "there" && kind == unix.S_IFREG || s == "." && kind == unix.S_IFDIR) {
			t.Errorf("%q of kind %#o: %v", path, kind, fits)
		}
	})
}
