package hostdir

import (
	"errors"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestPlainUserIsTheClientsRoot(t *testing.T) {
	user := ids{single: true, uid: 1000, gid: 100}
	for _, tc := range []struct {
		name     string
		ids      ids
		uid, gid uint32
		want     fuse.Owner
	}{
		{"root's server shows what is", ids{}, 1000, 7, fuse.Owner{Uid: 1000, Gid: 7}},
		{"its own", user, 1000, 100, fuse.Owner{}},
		{"another group's", user, 1000, 7, fuse.Owner{Gid: others}},
		{"the host's root's", user, 0, 0, fuse.Owner{Uid: others, Gid: others}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.ids.shown(tc.uid, tc.gid); got != tc.want {
				t.Errorf("shown as %+v", got)
			}
		})
	}
	if uid, gid, err := user.chown(0, -1); uid != 1000 || gid != -1 || err != nil {
		t.Errorf("to the client's root: %d, %d, %v", uid, gid, err)
	}
	if _, _, err := user.chown(1000, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("to another of the client's users: %v", err)
	}
	if uid, gid, err := (ids{}).chown(5, 6); uid != 5 || gid != 6 || err != nil {
		t.Errorf("by root's server: %d, %d, %v", uid, gid, err)
	}
}
