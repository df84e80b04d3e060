package hostdir

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// others is whom files seem to belong to whose owner the client has no number
// for: what the kernel shows in a user namespace (user_namespaces(7)).
const others = 65534

// ids translates owners. The zero value is for root, whose files may have any.
// A server without privileges has one user and one group to give away, its own:
// they are the client's root, as in a container that such a user runs.
type ids struct {
	single   bool
	uid, gid uint32
}

func ownIDs() ids {
	uid := os.Geteuid()
	return ids{single: uid != 0, uid: uint32(uid), gid: uint32(os.Getegid())}
}

// shown is a file's owner for the client.
func (m ids) shown(uid, gid uint32) fuse.Owner {
	if !m.single {
		return fuse.Owner{Uid: uid, Gid: gid}
	}
	one := func(id, own uint32) uint32 {
		if id == own {
			return 0
		}
		return others
	}
	return fuse.Owner{Uid: one(uid, m.uid), Gid: one(gid, m.gid)}
}

// chown is what the client's numbers for a new owner are to the host; -1 stays.
func (m ids) chown(uid, gid int) (int, int, error) {
	if !m.single {
		return uid, gid, nil
	}
	if uid > 0 || gid > 0 {
		return 0, 0, unix.EPERM
	}
	if uid == 0 {
		uid = int(m.uid)
	}
	if gid == 0 {
		gid = int(m.gid)
	}
	return uid, gid, nil
}
