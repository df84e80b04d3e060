package erofs

import (
	"fmt"
	"sort"
	"strings"
)

// Inode is one file of the tree given to Writer.Finish. The same *Inode under
// several names is a hard link; a directory may have one name only.
type Inode struct {
	Mode       uint16 // kind and permission bits, as in stat(2)
	UID, GID   uint32
	MtimeSec   int64
	MtimeNsec  uint32
	Major      uint32 // device number of a character or block device
	Minor      uint32
	Target     string  // of a symbolic link
	Xattrs     []Xattr // any order
	Data       Data    // contents of a regular file, from Writer.WriteData
	Entries    []Dirent
	seen       bool
	nlink      uint32
	number     uint32 // stat's st_ino on 32-bit hosts, and fsck's name for it
	xattrBytes uint32
	layout     uint16
	block      uint32 // first data block (plain and inline)
	size       uint64
	tail       int    // bytes stored behind the inode
	offset     uint64 // in the metadata area
	dirBlocks  []int  // directories: index of the first entry of each block
}

// Dirent is one name in a directory.
type Dirent struct {
	Name  string
	Inode *Inode
}

// Xattr is one extended attribute with its full name ("user.a").
type Xattr struct{ Name, Value string }

// xattrPrefixes are the name spaces that EROFS can store (EROFS_XATTR_INDEX_*).
// The two ACL names are stored whole, as an index with an empty name.
var xattrPrefixes = []struct {
	index  uint8
	prefix string
	whole  bool
}{
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{1, "user.", false},
	{4, "trusted.", false},
	{6, "security.", false},
}

func splitXattr(name string) (index uint8, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		if p.whole && name == p.prefix {
			return p.index, "", true
		}
		if !p.whole && strings.HasPrefix(name, p.prefix) && len(name) > len(p.prefix) {
			return p.index, name[len(p.prefix):], true
		}
	}
	return 0, "", false
}

// XattrSupported reports whether an attribute of this name can be stored. EROFS
// knows the name spaces user, trusted, security and the two POSIX ACLs.
func XattrSupported(name string) bool {
	_, rest, ok := splitXattr(name)
	return ok && len(rest) <= 255
}

const (
	xattrHeader = 12 // struct erofs_xattr_ibody_header
	xattrEntry  = 4  // struct erofs_xattr_entry
	// maxXattrBytes keeps the attributes of one inode small enough that the
	// whole inode stays within 16 blocks; Linux stores at most 64 KiB a value.
	maxXattrBytes = 60 << 10
)

// xattrSize returns the size in bytes of the inode's attribute area, 0 if none.
func xattrSize(xs []Xattr) (uint32, error) {
	if len(xs) == 0 {
		return 0, nil
	}
	n := xattrHeader
	for _, x := range xs {
		_, rest, ok := splitXattr(x.Name)
		if !ok || len(rest) > 255 {
			return 0, fmt.Errorf("%w: extended attribute %.64q cannot be stored", ErrInvalid, x.Name)
		}
		n += (xattrEntry + len(rest) + len(x.Value) + 3) &^ 3
		if n > maxXattrBytes {
			return 0, fmt.Errorf("%w: extended attributes of one file exceed %d bytes", ErrInvalid, maxXattrBytes)
		}
	}
	return uint32(n), nil
}

// appendXattrs appends the attribute area. No name is in the filter bitmap, as
// the super block does not announce a filter.
func appendXattrs(b []byte, xs []Xattr) []byte {
	if len(xs) == 0 {
		return b
	}
	b = append(b, make([]byte, xattrHeader)...)
	for _, x := range xs {
		index, rest, _ := splitXattr(x.Name)
		b = append(b, uint8(len(rest)), index)
		b = le.AppendUint16(b, uint16(len(x.Value)))
		b = append(b, rest...)
		b = append(b, x.Value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

// encode returns the on-disk inode without what follows it.
func (n *Inode) encode(b []byte) []byte {
	b = le.AppendUint16(b, 1|n.layout<<1) // bit 0: extended
	var icount uint16
	if n.xattrBytes > 0 {
		icount = uint16((n.xattrBytes-xattrHeader)/4 + 1)
	}
	b = le.AppendUint16(b, icount)
	b = le.AppendUint16(b, n.Mode)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, n.size)
	switch {
	case n.layout == layoutChunk:
		b = le.AppendUint32(b, chunkIndexes|uint32(n.Data.chunkBits))
	case n.isDevice():
		b = le.AppendUint32(b, deviceNumber(n.Major, n.Minor))
	default:
		b = le.AppendUint32(b, n.block)
	}
	b = le.AppendUint32(b, n.number)
	b = le.AppendUint32(b, n.UID)
	b = le.AppendUint32(b, n.GID)
	b = le.AppendUint64(b, uint64(n.MtimeSec))
	b = le.AppendUint32(b, n.MtimeNsec)
	b = le.AppendUint32(b, n.nlink)
	return append(b, make([]byte, 16)...)
}

func (n *Inode) isDevice() bool {
	k := n.Mode & ModeMask
	return k == ModeChar || k == ModeBlock
}

// sorted prepares the entries for the directory's blocks: names, "." and ".."
// among them, are in byte order, which the kernel's binary search needs.
func (n *Inode) sorted(parent *Inode) []Dirent {
	es := make([]Dirent, 0, len(n.Entries)+2)
	es = append(es, Dirent{".", n}, Dirent{"..", parent})
	es = append(es, n.Entries...)
	sort.Slice(es, func(i, j int) bool { return es[i].Name < es[j].Name })
	return es
}

// validate checks what Finish cannot express.
func (n *Inode) validate() error {
	switch n.Mode & ModeMask {
	case ModeFifo, ModeSocket, ModeRegular:
	case ModeChar, ModeBlock:
		if n.Major >= 1<<12 || n.Minor >= 1<<20 {
			return fmt.Errorf("%w: device number %d:%d out of range", ErrInvalid, n.Major, n.Minor)
		}
	case ModeSymlink:
		if n.Target == "" || len(n.Target) >= BlockSize {
			return fmt.Errorf("%w: symbolic link target of %d bytes, want 1 to %d", ErrInvalid, len(n.Target), BlockSize-1)
		}
	case ModeDir:
		for _, e := range n.Entries {
			if e.Name == "" || e.Name == "." || e.Name == ".." || len(e.Name) > maxName || strings.ContainsAny(e.Name, "/\x00") {
				return fmt.Errorf("%w: file name %.64q", ErrInvalid, e.Name)
			}
		}
	default:
		return fmt.Errorf("%w: unknown kind of file, mode %#o", ErrInvalid, n.Mode)
	}
	return nil
}
