package rootfs

import (
	"fmt"
	"strings"

	"github.com/hvctl/hvctl/images/erofs"
)

// tree is the file tree that the layers so far add up to.
type tree struct {
	root  *node
	layer int // the layer being applied
	nodes int // made in all, for the limit
	max   int
}

// node is one name in the tree. Nodes of hard links share an inode.
type node struct {
	inode  *erofs.Inode
	parent *node
	kids   map[string]*node // directories
	layer  int              // that made or last changed this name
	depth  int
	// clearedIn is the layer+1 in which all that lower layers have under
	// this directory was hidden, so that hiding again costs nothing.
	clearedIn int
}

const (
	maxDepth = 1024
	maxLinks = 40 // as in Linux's path walk
)

func newTree(maxNodes int) *tree {
	t := &tree{max: maxNodes}
	t.root = &node{inode: defaultDir()}
	t.root.parent = t.root
	t.root.kids = map[string]*node{}
	return t
}

// defaultDir is a directory that a layer uses but does not describe.
func defaultDir() *erofs.Inode { return &erofs.Inode{Mode: erofs.ModeDir | 0o755} }

func (n *node) isDir() bool { return n.inode.Mode&erofs.ModeMask == erofs.ModeDir }

// lookupDir walks to a directory, following symbolic links inside the root, as
// an unpacker confined to the root would. With create, missing directories are
// made; otherwise a missing one gives nil.
func (t *tree) lookupDir(path []string, create bool) (*node, error) {
	cur, links := t.root, 0
	rest := append([]string(nil), path...)
	for len(rest) > 0 {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			cur = cur.parent
			continue
		}
		next := cur.kids[c]
		if next == nil {
			if !create {
				return nil, nil
			}
			var err error
			if next, err = t.put(cur, c, defaultDir()); err != nil {
				return nil, err
			}
		}
		switch next.inode.Mode & erofs.ModeMask {
		case erofs.ModeDir:
			cur = next
		case erofs.ModeSymlink:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("%w: too many symbolic links in the way to it", ErrBadLayer)
			}
			to := next.inode.Target
			if strings.HasPrefix(to, "/") {
				cur = t.root
			}
			rest = append(strings.Split(to, "/"), rest...)
			if len(rest) > 2*maxPath {
				return nil, fmt.Errorf("%w: path too long with its symbolic links resolved", ErrBadLayer)
			}
		default:
			return nil, fmt.Errorf("%w: %.64q on the way to it is not a directory", ErrBadLayer, c)
		}
	}
	return cur, nil
}

// put sets a name. A directory over a directory keeps what is in it; anything
// else replaces what was there, with all that was below.
func (t *tree) put(dir *node, name string, n *erofs.Inode) (*node, error) {
	isDir := n.Mode&erofs.ModeMask == erofs.ModeDir
	if old := dir.kids[name]; old != nil && old.isDir() && isDir {
		old.inode, old.layer = n, t.layer
		return old, nil
	}
	if len(name) > maxName {
		// A component of a symbolic link's target.
		return nil, fmt.Errorf("%w: name component of %d bytes, limit %d", ErrBadLayer, len(name), maxName)
	}
	if dir.depth >= maxDepth {
		return nil, fmt.Errorf("%w: directories nested deeper than %d", ErrBadLayer, maxDepth)
	}
	if t.nodes++; t.nodes > t.max {
		return nil, fmt.Errorf("%w: more than %d files", ErrLimit, t.max)
	}
	c := &node{inode: n, parent: dir, layer: t.layer, depth: dir.depth + 1}
	if isDir {
		c.kids = map[string]*node{}
	}
	dir.kids[name] = c
	return c, nil
}

// link gives the file at target a second name.
func (t *tree) link(dir *node, name string, target []string) error {
	from, err := t.lookupDir(target[:len(target)-1], false)
	if err != nil {
		return fmt.Errorf("hard link target: %w", err)
	}
	var old *node
	if from != nil {
		old = from.kids[target[len(target)-1]]
	}
	switch {
	case old == nil:
		return fmt.Errorf("%w: hard link to %.200q, which does not exist", ErrBadLayer, strings.Join(target, "/"))
	case old.isDir():
		return fmt.Errorf("%w: hard link to %.200q, which is a directory", ErrBadLayer, strings.Join(target, "/"))
	case old == dir.kids[name]:
		return nil
	}
	_, err = t.put(dir, name, old.inode)
	return err
}

// whiteout hides a name as lower layers have it. What this layer itself has put
// there stays, in whichever order the entries come.
func (t *tree) whiteout(dir *node, name string) {
	if n := dir.kids[name]; n != nil && t.hide(n) {
		delete(dir.kids, name)
	}
}

// opaque hides everything that lower layers have in a directory.
func (t *tree) opaque(dir *node) {
	if dir.clearedIn == t.layer+1 {
		return
	}
	dir.clearedIn = t.layer + 1
	for name, kid := range dir.kids {
		if t.hide(kid) {
			delete(dir.kids, name)
		}
	}
}

// hide reports whether n goes. A directory stays when this layer made it or has
// put something below it.
func (t *tree) hide(n *node) bool {
	if n.isDir() {
		t.opaque(n)
		return len(n.kids) == 0 && n.layer < t.layer
	}
	return n.layer < t.layer
}

// inodes turns the tree into what the image writer takes.
func (n *node) inodes() *erofs.Inode {
	n.inode.Entries = make([]erofs.Dirent, 0, len(n.kids))
	for name, kid := range n.kids {
		if kid.isDir() {
			kid.inodes()
		}
		n.inode.Entries = append(n.inode.Entries, erofs.Dirent{Name: name, Inode: kid.inode})
	}
	return n.inode
}
