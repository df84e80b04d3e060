package rootfs

import (
	"archive/tar"
	"fmt"
	"sort"
	"strings"

	"github.com/hvctl/hvctl/images/erofs"
)

// action is what an entry of a layer asks for.
type action int

const (
	actSkip     action = iota // nothing: archive metadata
	actPut                    // make a file
	actLink                   // give a file a second name
	actRoot                   // set the root directory's attributes
	actWhiteout               // hide name as lower layers have it
	actOpaque                 // hide all that lower layers have in dir
)

// entry is one checked entry of a layer.
type entry struct {
	act    action
	dir    []string // components of the parent directory
	name   string
	target []string // actLink: components of the file to link to
	inode  *erofs.Inode
	size   int64 // of the contents that follow
	// dropped counts attributes that the file system cannot hold.
	dropped int
}

const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	metaPrefix     = ".wh..wh." // other AUFS bookkeeping, ignored

	maxPath = 4096 // PATH_MAX
	maxName = 255  // NAME_MAX

	xattrRecord = "SCHILY.xattr."
)

// splitPath turns the name of an entry into components. Leading slashes and
// "." components mean nothing; ".." is refused rather than resolved, as no
// honest archiver writes it.
func splitPath(p string) ([]string, error) {
	if len(p) >= maxPath {
		return nil, fmt.Errorf("%w: name of %d bytes, limit %d", ErrBadLayer, len(p), maxPath-1)
	}
	if strings.IndexByte(p, 0) >= 0 {
		return nil, fmt.Errorf("%w: name has a NUL byte", ErrUnsafePath)
	}
	var out []string
	for c := range strings.SplitSeq(p, "/") {
		switch {
		case c == "" || c == ".":
		case c == "..":
			return nil, fmt.Errorf("%w: name has a \"..\" component", ErrUnsafePath)
		case len(c) > maxName:
			return nil, fmt.Errorf("%w: name component of %d bytes, limit %d", ErrBadLayer, len(c), maxName)
		default:
			out = append(out, c)
		}
	}
	return out, nil
}

// parseEntry checks a tar header and says what to do with it.
func parseEntry(h *tar.Header) (entry, error) {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return entry{act: actSkip}, nil
	}
	path, err := splitPath(h.Name)
	if err != nil {
		return entry{}, err
	}
	var e entry
	if len(path) == 0 {
		if h.Typeflag != tar.TypeDir {
			return entry{}, fmt.Errorf("%w: the root can only be a directory", ErrBadLayer)
		}
		e.act = actRoot
	} else {
		e.dir, e.name = path[:len(path)-1], path[len(path)-1]
		e.act = actPut
		for _, c := range e.dir {
			if strings.HasPrefix(c, whiteoutPrefix) {
				return entry{}, fmt.Errorf("%w: a whiteout has no files in it", ErrBadLayer)
			}
		}
		if strings.HasPrefix(e.name, whiteoutPrefix) {
			return parseWhiteout(e)
		}
	}
	if h.Typeflag == tar.TypeLink {
		e.act = actLink
		if e.target, err = splitPath(h.Linkname); err != nil {
			return entry{}, fmt.Errorf("hard link target: %w", err)
		}
		if len(e.target) == 0 {
			return entry{}, fmt.Errorf("%w: hard link to the root directory", ErrBadLayer)
		}
		return e, nil
	}
	e.inode, e.dropped, err = inodeOf(h)
	if h.Typeflag != tar.TypeDir && e.inode != nil && e.inode.Mode&erofs.ModeMask == erofs.ModeRegular {
		e.size = h.Size
	}
	return e, err
}

func parseWhiteout(e entry) (entry, error) {
	switch {
	case e.name == opaqueName:
		e.act = actOpaque
		return e, nil
	case strings.HasPrefix(e.name, metaPrefix):
		return entry{act: actSkip}, nil
	}
	e.act = actWhiteout
	e.name = e.name[len(whiteoutPrefix):]
	if e.name == "" || e.name == "." || e.name == ".." {
		return entry{}, fmt.Errorf("%w: whiteout of %q", ErrUnsafePath, e.name)
	}
	return e, nil
}

// inodeOf makes the inode that a header describes.
func inodeOf(h *tar.Header) (*erofs.Inode, int, error) {
	n := &erofs.Inode{
		Mode:      uint16(h.Mode & 0o7777),
		MtimeSec:  h.ModTime.Unix(),
		MtimeNsec: uint32(h.ModTime.Nanosecond()),
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse: //nolint:staticcheck // old archives use TypeRegA
		n.Mode |= erofs.ModeRegular
	case tar.TypeDir:
		n.Mode |= erofs.ModeDir
	case tar.TypeSymlink:
		n.Mode = erofs.ModeSymlink | 0o777 // what lstat says on Linux
		n.Target = h.Linkname
		if n.Target == "" || len(n.Target) >= maxPath {
			return nil, 0, fmt.Errorf("%w: symbolic link target of %d bytes, want 1 to %d", ErrBadLayer, len(n.Target), maxPath-1)
		}
	case tar.TypeChar:
		n.Mode |= erofs.ModeChar
	case tar.TypeBlock:
		n.Mode |= erofs.ModeBlock
	case tar.TypeFifo:
		n.Mode |= erofs.ModeFifo
	default:
		return nil, 0, fmt.Errorf("%w: unknown entry type %q", ErrBadLayer, h.Typeflag)
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, 0, fmt.Errorf("%w: device number %d:%d out of range", ErrBadLayer, h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	// (uid_t)-1 means "leave alone" to chown(2), so no file can have it.
	const maxID = 1<<32 - 2
	if h.Uid < 0 || h.Uid > maxID || h.Gid < 0 || h.Gid > maxID {
		return nil, 0, fmt.Errorf("%w: owner %d:%d out of range", ErrBadLayer, h.Uid, h.Gid)
	}
	n.UID, n.GID = uint32(h.Uid), uint32(h.Gid)

	dropped := 0
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrRecord)
		if !ok {
			continue
		}
		if !keepXattr(name) {
			dropped++
			continue
		}
		n.Xattrs = append(n.Xattrs, erofs.Xattr{Name: name, Value: v})
	}
	sort.Slice(n.Xattrs, func(i, j int) bool { return n.Xattrs[i].Name < n.Xattrs[j].Name })
	return n, dropped, nil
}

// keepXattr says whether an attribute goes into the image. The attributes of
// overlayfs would be instructions to the overlay that is mounted over the image
// (hide, redirect, take data from elsewhere): an image does not give those.
func keepXattr(name string) bool {
	for _, p := range []string{"trusted.overlay.", "user.overlay."} {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	return erofs.XattrSupported(name)
}
