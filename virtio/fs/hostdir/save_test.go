package hostdir_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func opened(t *testing.T, fs *hostdir.FS, node uint64, flags uint32) uint64 {
	t.Helper()
	var out fuse.OpenOut
	if code := fs.Open(nil, &fuse.OpenIn{InHeader: *at(node), Flags: flags}, &out); code != fuse.OK {
		t.Fatalf("open: %v", code)
	}
	return out.Fh
}

func readAt(fs *hostdir.FS, fh uint64) (string, fuse.Status) {
	res, code := fs.Read(nil, &fuse.ReadIn{Fh: fh, Size: 100}, nil)
	if code != fuse.OK {
		return "", code
	}
	defer res.Done()
	b, code := res.Bytes(make([]byte, 100))
	return string(b), code
}

// another serves a directory to a client that has held t elsewhere.
func another(t *testing.T, o hostdir.Options, table hostdir.Table) *hostdir.FS {
	t.Helper()
	b, err := json.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	var same hostdir.Table
	if err := json.Unmarshal(b, &same); err != nil || !reflect.DeepEqual(same, table) {
		t.Fatalf("as JSON it is another one: %v\n%s", err, b)
	}
	fs, err := hostdir.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	if err := fs.Load(same); err != nil {
		t.Fatal(err)
	}
	return fs
}

func save(t *testing.T, fs *hostdir.FS) hostdir.Table {
	t.Helper()
	if err := fs.CanSave(); err != nil {
		t.Fatal(err)
	}
	table, err := fs.Save()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// What a client knows and has open is there again: in the same directory the same
// files, also those that have other names by then, and nothing in the place of what
// is gone.
func TestAClientGoesOnInTheSameDirectory(t *testing.T) {
	const odd = "odd\xff (deleted)"
	fs, dir := share(t, hostdir.Options{}, func(dir string) {
		for _, name := range []string{"d/kept", "moved", "gone", "replaced", odd} {
			write(t, filepath.Join(dir, name), "content of "+name)
		}
	})
	d := lookup(t, fs, root, "d").NodeId
	id := map[string]uint64{"kept": lookup(t, fs, d, "kept").NodeId}
	for _, name := range []string{"moved", "gone", "replaced", odd} {
		id[name] = lookup(t, fs, root, name).NodeId
	}
	lookup(t, fs, d, "kept") // twice
	fh := opened(t, fs, id["kept"], unix.O_RDWR|unix.O_APPEND|unix.O_TRUNC)
	var list fuse.OpenOut
	if code := fs.OpenDir(nil, &fuse.OpenIn{InHeader: *at(root)}, &list); code != fuse.OK {
		t.Fatal(code)
	}
	if err := os.Rename(filepath.Join(dir, "moved"), filepath.Join(dir, "d/there")); err != nil {
		t.Fatal(err)
	}
	table := save(t, fs)

	for _, name := range []string{"gone", "replaced"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "replaced"), "another file")
	fs2 := another(t, hostdir.Options{Path: dir}, table)
	for name, want := range map[string]string{"moved": "content of moved", odd: "content of " + odd} {
		if got, code := read(fs2, id[name]); got != want {
			t.Errorf("%q reads %q, %v", name, got, code)
		}
	}
	for _, name := range []string{"gone", "replaced"} {
		if got, code := read(fs2, id[name]); code != fuse.Status(unix.ESTALE) {
			t.Errorf("%q reads %q, %v", name, got, code)
		}
	}
	if got, _ := read(fs2, lookup(t, fs2, root, "replaced").NodeId); got != "another file" {
		t.Errorf("what took the place reads %q", got)
	}
	if n, code := fs2.Writev(nil, &fuse.WriteIn{Fh: fh}, [][]byte{[]byte("first "), []byte("line")}); n != 10 || code != fuse.OK {
		t.Errorf("wrote %d bytes, %v", n, code)
	}
	if _, code := fs2.Writev(nil, &fuse.WriteIn{Fh: fh}, [][]byte{[]byte("!")}); code != fuse.OK { // at the end: O_APPEND
		t.Error(code)
	}
	if got, code := readAt(fs2, fh); got != "first line!" {
		t.Errorf("the open file reads %q, %v", got, code)
	}
	if lookup(t, fs2, d, "kept").NodeId != id["kept"] {
		t.Error("the file is another one to the client")
	}
	fs2.Forget(id["kept"], 2)
	if _, code := read(fs2, id["kept"]); code != fuse.OK {
		t.Errorf("forgotten too early: %v", code)
	}
	fs2.Forget(id["kept"], 1)
	if _, code := read(fs2, id["kept"]); code != fuse.Status(unix.ESTALE) {
		t.Errorf("not forgotten: %v", code)
	}
	fs2.Forget(id["gone"], 1)
	var entries fuse.DirEntryList
	if code := fs2.ReadDir(nil, &fuse.ReadIn{Fh: list.Fh}, &entries); code != fuse.OK {
		t.Errorf("listing: %v", code)
	}
	if again := save(t, fs2); len(again.Nodes) != len(table.Nodes)-1 { // kept and gone are forgotten, one was found
		t.Errorf("%d files, then %d", len(table.Nodes), len(again.Nodes))
	}
}

// In another directory names decide, and the kind.
func TestAClientGoesOnInACopyOfTheDirectory(t *testing.T) {
	fs, _ := share(t, hostdir.Options{}, func(dir string) {
		write(t, filepath.Join(dir, "a/f"), "here")
		write(t, filepath.Join(dir, "was-a-file"), "")
		write(t, filepath.Join(dir, "a/only-here"), "")
	})
	a := lookup(t, fs, root, "a").NodeId
	f, kind, missing := lookup(t, fs, a, "f").NodeId, lookup(t, fs, root, "was-a-file").NodeId, lookup(t, fs, a, "only-here").NodeId
	fh, lost := opened(t, fs, f, unix.O_RDONLY), opened(t, fs, missing, unix.O_RDONLY)
	table := save(t, fs)

	dir := t.TempDir()
	write(t, filepath.Join(dir, "a/f"), "there")
	if err := os.Symlink("a/f", filepath.Join(dir, "was-a-file")); err != nil {
		t.Fatal(err)
	}
	fs2 := another(t, hostdir.Options{Path: dir, ReadOnly: true}, table)
	if got, code := readAt(fs2, fh); got != "there" {
		t.Errorf("the open file reads %q, %v", got, code)
	}
	if _, code := readAt(fs2, lost); code != fuse.Status(unix.ESTALE) {
		t.Errorf("an open file that is not there: %v", code)
	}
	for _, id := range []uint64{kind, missing} {
		if _, code := read(fs2, id); code != fuse.Status(unix.ESTALE) {
			t.Errorf("node %d: %v", id, code)
		}
	}
	again := save(t, fs2)
	if len(again.Handles) != 2 || len(again.Nodes) != len(table.Nodes) {
		t.Errorf("saved once more: %+v", again)
	}
}

func TestWhatCannotBeOpenedAgainIsNotSaved(t *testing.T) {
	for what, lose := range map[string]func(dir string) error{
		"removed":   func(dir string) error { return os.Remove(filepath.Join(dir, "in/f")) },
		"moved out": func(dir string) error { return os.Rename(filepath.Join(dir, "in/f"), filepath.Join(dir, "f")) },
	} {
		fs, dir := share(t, hostdir.Options{Path: "in"}, func(dir string) { write(t, filepath.Join(dir, "in/f"), "x") })
		fh := opened(t, fs, lookup(t, fs, root, "f").NodeId, unix.O_RDONLY)
		if err := lose(dir); err != nil {
			t.Fatal(err)
		}
		if what == "removed" {
			if err := fs.CanSave(); !errors.Is(err, hostdir.ErrUnlinked) {
				t.Errorf("%s: CanSave says %v", what, err)
			}
		}
		if _, err := fs.Save(); !errors.Is(err, hostdir.ErrUnlinked) || !strings.Contains(err.Error(), "/f") {
			t.Errorf("%s: %v", what, err)
		}
		fs.Release(nil, &fuse.ReleaseIn{Fh: fh})
		save(t, fs)
	}
}

// valid is a table of a directory with d/f.
func valid() hostdir.Table {
	return hostdir.Table{
		Root: hostdir.Root{FS: [2]int32{1, -2}, Identity: hostdir.Identity{Ino: 3, Born: 4}}, NextID: 9, NextFH: 2,
		Nodes: []hostdir.SavedNode{
			{ID: 2, Lookups: 1, Path: []byte("d"), Kind: unix.S_IFDIR, File: hostdir.Identity{Ino: 5}},
			{ID: 3, Lookups: 2, Path: []byte("d/f"), Kind: unix.S_IFREG},
			{ID: 4, Lookups: 1},
		},
		Handles: []hostdir.SavedHandle{{ID: 1, Path: []byte("d/f"), Flags: unix.O_RDWR | unix.O_APPEND}, {ID: 2, Path: []byte("."), Dir: true}},
	}
}

// What a table looks like may never change without a new version of the device's
// section.
func TestTableIsWhatItsVersionSays(t *testing.T) {
	got, err := json.MarshalIndent(valid(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/table-v2.golden"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || string(want) != string(got) {
		t.Errorf("differs from %s (%v); with -update it is rewritten:\n%s", golden, err, got)
	}
}

func TestTablesThatLieAreRefused(t *testing.T) {
	for what, spoil := range map[string]func(*hostdir.Table){
		"the root's ID":           func(t *hostdir.Table) { t.Nodes[0].ID = 1 },
		"an ID to be given later": func(t *hostdir.Table) { t.Nodes[0].ID = 10 },
		"an ID twice":             func(t *hostdir.Table) { t.Nodes[1].ID = 2 },
		"never looked up":         func(t *hostdir.Table) { t.Nodes[1].Lookups = 0 },
		"a way out":               func(t *hostdir.Table) { t.Nodes[1].Path = []byte("d/../../x") },
		"an absolute name":        func(t *hostdir.Table) { t.Nodes[1].Path = []byte("/etc/passwd") },
		"an empty component":      func(t *hostdir.Table) { t.Nodes[1].Path = []byte("d//f") },
		"a long name":             func(t *hostdir.Table) { t.Nodes[1].Path = []byte(strings.Repeat("x", 300)) },
		"a handle twice":          func(t *hostdir.Table) { t.Handles[1].ID = 1 },
		"a handle given later":    func(t *hostdir.Table) { t.Handles[0].ID = 3 },
		"an open that truncates":  func(t *hostdir.Table) { t.Handles[0].Flags |= unix.O_TRUNC },
		"an open that makes":      func(t *hostdir.Table) { t.Handles[0].Flags |= unix.O_CREAT },
		"a directory to write":    func(t *hostdir.Table) { t.Handles[1].Flags = unix.O_WRONLY },
		"IDs that wrap":           func(t *hostdir.Table) { t.NextID = 1 << 63 },
	} {
		fs, dir := share(t, hostdir.Options{}, func(dir string) { write(t, filepath.Join(dir, "d/f"), "x") })
		table := valid()
		spoil(&table)
		if err := fs.Load(table); !errors.Is(err, hostdir.ErrTable) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", what, err)
		}
		if nodes, handles := fs.InUse(); nodes != 1 || handles != 0 {
			t.Errorf("%s: %d nodes and %d handles are left", what, nodes, handles)
		}
		if err := fs.Load(valid()); err != nil {
			t.Errorf("after %s: %v", what, err)
		}
	}
	fs, _ := share(t, hostdir.Options{ReadOnly: true}, func(dir string) { write(t, filepath.Join(dir, "d/f"), "x") })
	if err := fs.Load(valid()); !errors.Is(err, hostdir.ErrTable) {
		t.Errorf("open for writing on a share that is only read: %v", err)
	}
}

// Whatever a table says, it names nothing outside of the directory.
func FuzzLoad(f *testing.F) {
	b, err := json.Marshal(valid())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"NextID":5,"Nodes":[{"ID":2,"Lookups":1,"Path":"Li4vc2VjcmV0","Kind":32768}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var table hostdir.Table
		if json.Unmarshal(b, &table) != nil {
			return
		}
		fs, _ := share(t, hostdir.Options{Path: "in"}, func(dir string) {
			write(t, filepath.Join(dir, "secret"), "secret")
			write(t, filepath.Join(dir, "in/d/f"), "x")
			if err := os.Symlink("../secret", filepath.Join(dir, "in/link")); err != nil {
				t.Fatal(err)
			}
		})
		if fs.Load(table) != nil {
			return
		}
		for _, n := range table.Nodes {
			if got, _ := read(fs, n.ID); got == "secret" {
				t.Errorf("%q leads out", n.Path)
			}
		}
		for _, h := range table.Handles {
			if got, _ := readAt(fs, h.ID); got == "secret" {
				t.Errorf("%q leads out", h.Path)
			}
		}
		if _, err := fs.Save(); err != nil {
			t.Errorf("cannot be saved again: %v", err)
		}
	})
}

// A client that is to go on with the same content, or not at all, is told of what is lacking
// before, and refused then.
func TestADirectoryOfTheSameContentIsAskedFor(t *testing.T) {
	fs, dir := share(t, hostdir.Options{}, func(dir string) {
		for _, name := range []string{"d/known", "open", "gone"} {
			write(t, filepath.Join(dir, name), name)
		}
	})
	d := lookup(t, fs, root, "d").NodeId
	lookup(t, fs, d, "known")
	lookup(t, fs, root, "gone")
	opened(t, fs, lookup(t, fs, root, "open").NodeId, unix.O_RDONLY)
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	names := func(all []hostdir.Name) (s string) {
		for _, n := range all {
			s += string(n.Path) + " "
		}
		return s
	}
	held := fs.Names(1 << 20)
	if got := names(held); got != "open d d/known open " {
		t.Errorf("it holds %s", got)
	}
	if got := names(fs.Names(60)); got != "open " {
		t.Errorf("of 60 bytes: %s", got)
	}
	table := save(t, fs)
	_, other := share(t, hostdir.Options{}, func(dir string) { write(t, filepath.Join(dir, "d/known"), "") })
	to, err := hostdir.New(hostdir.Options{Path: other, Complete: true})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	lacking, err := to.Lacks(held)
	if err != nil || names(lacking) != "open open " {
		t.Errorf("it lacks %s, %v", names(lacking), err)
	}
	if err := to.Load(table); !errors.Is(err, hostdir.ErrLacks) || !strings.Contains(err.Error(), `"open"`) {
		t.Errorf("loaded: %v", err)
	}
	write(t, filepath.Join(other, "open"), "")
	if err := to.Load(table); err != nil {
		t.Errorf("with all there: %v", err)
	}
	if _, err := to.Lacks([]hostdir.Name{{Path: []byte("../x"), Kind: unix.S_IFREG}}); !errors.Is(err, hostdir.ErrTable) {
		t.Errorf("a name outside: %v", err)
	}
}
