package erofs

import (
	"fmt"
	"io"
)

// File is what an image is written to: an *os.File, or memory in tests. It must
// be empty; bytes that are never written must read as zeros.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

// Options set what an image carries beside its files.
type Options struct {
	// UUID identifies the file system. Derive it from the contents, so that
	// equal contents give equal images.
	UUID [16]byte
	// Label is the volume name, at most 16 bytes.
	Label string
	// MaxBytes bounds the size of the image's data area; 0 is the format's
	// own limit of 16 TiB.
	MaxBytes uint64
}

// Writer writes one image: first WriteData for every regular file, then Finish
// once.
type Writer struct {
	f      File
	opt    Options
	next   uint32 // next free block
	buf    []byte
	tails  uint64 // bytes of tails held in memory
	ranges []blockRange
	inodes []*Inode
}

type blockRange struct{ start, count uint32 }

// NewWriter returns a Writer over an empty file.
func NewWriter(f File, opt Options) *Writer {
	return &Writer{f: f, opt: opt, next: 1, buf: make([]byte, minChunk)}
}

// Info describes a finished image.
type Info struct {
	Size   uint64 // bytes, a multiple of BlockSize
	Inodes int
	// Dead lists the byte ranges that no file uses any more: contents that
	// were written and then not linked into the tree. The caller may punch
	// holes there.
	Dead []Range
}

// Range is a range of bytes of an image.
type Range struct{ Offset, Length int64 }

func (w *Writer) alloc(blocks uint64) (uint32, error) {
	limit := uint64(nullBlock)
	if w.opt.MaxBytes > 0 {
		limit = min(limit, w.opt.MaxBytes/BlockSize+1)
	}
	if blocks > limit || uint64(w.next)+blocks > limit {
		return 0, fmt.Errorf("%w: more than %d bytes of data", ErrTooLarge, limit*BlockSize)
	}
	first := w.next
	w.next += uint32(blocks)
	return first, nil
}

func (w *Writer) writeAt(p []byte, block uint32, off uint64) error {
	_, err := w.f.WriteAt(p, int64(uint64(block)*BlockSize+off))
	return err
}

// Finish writes the directories, inodes and super block of the tree under root
// and sets the file's size. root must be a directory. The tree's inodes belong
// to the Writer from here on.
func (w *Writer) Finish(root *Inode) (Info, error) {
	if root.Mode&ModeMask != ModeDir {
		return Info{}, fmt.Errorf("%w: the root is not a directory", ErrInvalid)
	}
	if err := w.collect(root); err != nil {
		return Info{}, err
	}
	for _, n := range w.inodes {
		if err := w.planContents(n); err != nil {
			return Info{}, err
		}
	}
	// From here on data addresses are fixed; the metadata area follows.
	end := w.placeInodes()
	meta := w.next
	metaBlocks := (end + BlockSize - 1) / BlockSize
	if _, err := w.alloc(metaBlocks); err != nil {
		return Info{}, err
	}
	if err := w.writeInodes(meta); err != nil {
		return Info{}, err
	}
	size := uint64(w.next) * BlockSize
	if err := w.f.Truncate(int64(size)); err != nil {
		return Info{}, err
	}
	incompat := uint32(0)
	for _, n := range w.inodes {
		if n.layout == layoutChunk {
			incompat |= incompatChunked
		}
	}
	sb := superBlock{
		inodes: uint64(len(w.inodes)), blocks: w.next, metaBlock: meta,
		rootNID: uint16(root.offset >> slotBits), incompat: incompat,
		uuid: w.opt.UUID, volumeLabel: w.opt.Label,
	}
	if err := w.writeAt(sb.encode(), 0, 0); err != nil {
		return Info{}, err
	}
	return Info{Size: size, Inodes: len(w.inodes), Dead: w.dead()}, nil
}

// collect lists every inode once, in the order of the metadata area: the files
// of a directory lie together, then come its sub-directories. It counts links.
func (w *Writer) collect(root *Inode) error {
	root.seen, root.nlink = true, 2
	if err := w.add(root); err != nil {
		return err
	}
	type step struct{ n, parent *Inode }
	stack := []step{{root, root}}
	for len(stack) > 0 {
		cur := stack[len(stack)-1].n
		cur.Entries = cur.sorted(stack[len(stack)-1].parent)
		stack = stack[:len(stack)-1]
		below := len(stack)
		for i, e := range cur.Entries {
			c := e.Inode
			if e.Name == "." || e.Name == ".." {
				continue
			}
			if i > 0 && cur.Entries[i-1].Name == e.Name {
				return fmt.Errorf("%w: name %.64q twice in a directory", ErrInvalid, e.Name)
			}
			isDir := c.Mode&ModeMask == ModeDir
			if c.seen {
				if isDir {
					return fmt.Errorf("%w: directory %.64q is linked twice", ErrInvalid, e.Name)
				}
				c.nlink++
				continue
			}
			c.seen, c.nlink = true, 1
			if err := w.add(c); err != nil {
				return err
			}
			if isDir {
				c.nlink = 2
				cur.nlink++
				stack = append(stack, step{c, cur})
			}
		}
		// The stack pops from its end: turn the new part round, so that
		// directories come in the order of their names.
		for i, j := below, len(stack)-1; i < j; i, j = i+1, j-1 {
			stack[i], stack[j] = stack[j], stack[i]
		}
	}
	return nil
}

func (w *Writer) add(n *Inode) error {
	if err := n.validate(); err != nil {
		return err
	}
	xs, err := xattrSize(n.Xattrs)
	if err != nil {
		return err
	}
	n.xattrBytes = xs
	w.inodes = append(w.inodes, n)
	n.number = uint32(len(w.inodes))
	return nil
}

// dead returns the ranges of WriteData calls whose Data is in no inode.
func (w *Writer) dead() []Range {
	used := make([]bool, len(w.ranges)+1)
	for _, n := range w.inodes {
		used[n.Data.id] = true
	}
	var out []Range
	for i, r := range w.ranges {
		if used[i+1] || r.count == 0 {
			continue
		}
		at, n := int64(r.start)*BlockSize, int64(r.count)*BlockSize
		if last := len(out) - 1; last >= 0 && out[last].Offset+out[last].Length == at {
			out[last].Length += n
			continue
		}
		out = append(out, Range{at, n})
	}
	return out
}
