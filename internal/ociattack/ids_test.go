package ociattack

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestBadIDsAreRefused: an ID is no path.
func TestBadIDsAreRefused(t *testing.T) {
	h := newHost(t)
	b := h.bundle("true")
	b.save()
	h.ok("create", "--bundle", b.dir, "good") // so that the state folder is there
	before := tree(t, h.root)
	outside := filepath.Join(h.dir, "outside")
	for i, id := range []string{
		"", ".", "..", "../outside", "a/b", "/", outside, "a/../../outside", "good/../x", "-x", "--", " ", "a b", "a\n", "a\x01", "é", "a*", "$(id)", "good/", strings.Repeat("x", 5000),
	} {
		if thinned(i) {
			continue
		}
		for _, args := range [][]string{
			{"create", "--bundle", b.dir, id},
			{"run", "--bundle", b.dir, id},
			{"start", id},
			{"state", id},
			{"kill", id, "KILL"},
			{"delete", id},
			{"delete", "--force", id},
			{"exec", id, "/bin/true"},
			{"ps", id},
			{"pause", id},
			{"update", "--pids-limit", "5", id},
		} {
			// Force passes over containers that are not there.
			if r := h.do(args...); r.code == 0 && args[1] != "--force" {
				t.Errorf("%s of ID %q: %v", args[0], id, r)
			}
		}
	}
	if after := tree(t, h.root); after != before {
		t.Errorf("the state changed; before:\n%safter:\n%s", before, after)
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("something was made outside of the state folder")
	}
	h.ok("delete", "--force", "good")
}

// TestStateIsNotForOthers: nobody but root looks into or writes to the state.
func TestStateIsNotForOthers(t *testing.T) {
	h := newHost(t)
	id := h.bundle("sleep 1000").start()
	for _, dir := range []string{h.root, filepath.Join(h.root, id)} {
		st, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if p := st.Mode().Perm(); p&0o066 != 0 {
			t.Errorf("%s has mode %o", dir, p)
		}
	}
	err := filepath.WalkDir(filepath.Join(h.root, id), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil && d.Type().IsRegular() && info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestOneOfManyCreatesWins: of containers with one ID, made at a time, there
// is one in the end, and the losers leave nothing.
func TestOneOfManyCreatesWins(t *testing.T) {
	h := newHost(t)
	b := h.bundle("true")
	b.save()
	for range rounds(5) {
		id := newID()
		var wg sync.WaitGroup
		won := make(chan result, 8)
		for range 8 {
			wg.Go(func() {
				if r := h.do("create", "--bundle", b.dir, id); r.code == 0 {
					won <- r
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Errorf("%d of 8 won", len(won))
		}
		h.ok("delete", "--force", id)
		if r := h.do("state", id); r.code == 0 {
			t.Errorf("still there: %v", r)
		}
	}
}

// TestDeleteDuringCreateLeavesNothing: forced deletes race with creates of the
// same ID; whoever wins, one more delete leaves no state.
func TestDeleteDuringCreateLeavesNothing(t *testing.T) {
	h := newHost(t)
	b := h.bundle("sleep 1000")
	b.save()
	for range rounds(10) {
		id := newID()
		var wg sync.WaitGroup
		wg.Go(func() { h.do("create", "--bundle", b.dir, id) })
		wg.Go(func() { h.do("delete", "--force", id) })
		wg.Go(func() { h.do("kill", id, "KILL") })
		wg.Wait()
		h.ok("delete", "--force", id)
		if _, err := os.Lstat(filepath.Join(h.root, id)); err == nil {
			t.Errorf("the state of %s is still there", id)
		}
	}
	if procs := containerProcesses(t, b.rootfs); procs != "" {
		t.Errorf("processes are left: %s", procs)
	}
}

// containerProcesses lists processes whose root is the folder.
func containerProcesses(t *testing.T, rootfs string) string {
	t.Helper()
	roots, err := filepath.Glob("/proc/[0-9]*/root")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Stat(rootfs)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, r := range roots {
		if st, err := os.Stat(r + "/."); err == nil && os.SameFile(st, want) {
			found = append(found, filepath.Dir(r))
		}
	}
	return strings.Join(found, " ")
}
