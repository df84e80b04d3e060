package commit

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
)

// What root leaves in the folder of an owner with a user of its own, that can read.
func TestRootsRecordsAreTheFoldersUsers(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	if err := os.Chown(dir, 1234, 1235); err != nil {
		t.Fatal(err)
	}
	h, err := TakeHold(dir)
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
	s, err := File(filepath.Join(dir, SentFile)).Stage(Record{Verdict: KeptRecord})
	if err == nil {
		err = s.Publish()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{holdFile, SentFile} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Uid != 1234 || st.Gid != 1235 {
			t.Errorf("%s is %d:%d's, %v", name, st.Uid, st.Gid, err)
		}
	}
}
