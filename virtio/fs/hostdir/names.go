package hostdir

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrLacks is wrapped when a directory has not what the client holds of the one that was
// served before, and has to (Options.Complete).
var ErrLacks = errors.New("the directory lacks what the guest holds of it")

// Name is a file below the directory that a client knows or has open.
type Name struct {
	Path []byte `json:"path"`
	Kind uint32 `json:"kind"` // S_IFMT bits
}

// nameCost is what a name takes beside its path, in bytes, where it is sent.
const nameCost = 48

// Names returns those of the files that the client knows or has open now, the open ones first,
// as many as fit into max bytes. Requests are served meanwhile. What has no name any more is
// passed over.
func (fs *FS) Names(max int) (names []Name) {
	for _, h := range []bool{true, false} {
		for _, id := range fs.known(h) {
			n, ok := fs.nameNow(id, h)
			if !ok {
				continue
			}
			if max -= 2*len(n.Path) + nameCost; max < 0 {
				return names
			}
			names = append(names, n)
		}
	}
	return names
}

// known lists the open files, or else the files that the client knows.
func (fs *FS) known(open bool) (ids []uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if open {
		for id := range fs.handles {
			ids = append(ids, id)
		}
	} else {
		for id := range fs.nodes {
			if id != rootID {
				ids = append(ids, id)
			}
		}
	}
	slices.SortFunc(ids, cmp.Compare[uint64])
	return ids
}

// nameNow is the name of one of them.
func (fs *FS) nameNow(id uint64, open bool) (n Name, ok bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fd := -1
	if h := fs.handles[id]; open && h != nil {
		fd = h.fd
	} else if f := fs.nodes[id]; !open && f != nil {
		fd = f.fd
	}
	if fd < 0 {
		return n, false
	}
	path, kind, _, err := fs.nameOf(fd)
	return Name{path, kind}, err == nil && len(path) > 0
}

// Lacks returns those of names, which come from anybody, that are not below the directory, or
// are of another kind there. Names are resolved like a client's.
func (fs *FS) Lacks(names []Name) (lacking []Name, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, n := range names {
		fd, _, err := fs.find(n.Path, n.Kind, Identity{}, false)
		if err != nil {
			return lacking, fmt.Errorf("shared directory %s: %w", fs.opt.Path, err)
		}
		if fd < 0 {
			lacking = append(lacking, n)
			continue
		}
		unix.Close(fd)
	}
	return lacking, nil
}

// complete refuses what find has not found, where it has to be there.
func (fs *FS) complete(path []byte) error {
	if !fs.opt.Complete || len(path) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %q", ErrLacks, path)
}
