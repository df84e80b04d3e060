package erofs

// planContents decides how an inode's contents are stored and takes blocks for
// what does not fit beside the inode.
func (w *Writer) planContents(n *Inode) error {
	n.layout = layoutPlain
	switch n.Mode & ModeMask {
	case ModeRegular:
		n.size, n.block = n.Data.size, n.Data.start
		switch {
		case n.Data.chunks != nil:
			n.layout = layoutChunk
		case len(n.Data.tail) > 0:
			n.layout, n.tail = layoutInline, len(n.Data.tail)
		}
	case ModeSymlink:
		n.size = uint64(len(n.Target))
		// The kernel reads an inline target only when inode, attributes and
		// target share a block.
		if len(n.Target) <= maxTail && inodeSize+int(n.xattrBytes)+len(n.Target) <= BlockSize {
			n.layout, n.tail = layoutInline, len(n.Target)
			return nil
		}
		var err error
		if n.block, err = w.alloc(1); err != nil {
			return err
		}
		return w.writeAt([]byte(n.Target), n.block, 0)
	case ModeDir:
		return w.planDir(n)
	}
	return nil
}

// planDir splits a directory into blocks. Its last block is stored beside the
// inode when it is short.
func (w *Writer) planDir(n *Inode) error {
	used := BlockSize + 1
	for i, e := range n.Entries {
		need := direntSize + len(e.Name)
		if used+need > BlockSize {
			n.dirBlocks = append(n.dirBlocks, i)
			used = 0
		}
		used += need
	}
	blocks := uint64(len(n.dirBlocks))
	n.size = (blocks-1)*BlockSize + uint64(used)
	if used <= maxTail {
		n.layout, n.tail = layoutInline, used
		blocks--
	}
	var err error
	n.block, err = w.alloc(blocks)
	return err
}

// direntBlock appends the i-th block of a directory, without padding.
func (n *Inode) direntBlock(b []byte, i int) []byte {
	end := len(n.Entries)
	if i+1 < len(n.dirBlocks) {
		end = n.dirBlocks[i+1]
	}
	es := n.Entries[n.dirBlocks[i]:end]
	nameAt := len(es) * direntSize
	for _, e := range es {
		b = le.AppendUint64(b, e.Inode.offset>>slotBits)
		b = le.AppendUint16(b, uint16(nameAt))
		b = append(b, direntType(e.Inode.Mode), 0)
		nameAt += len(e.Name)
	}
	for _, e := range es {
		b = append(b, e.Name...)
	}
	return b
}

// behind returns how many bytes follow the inode and its attributes.
func (n *Inode) behind() uint64 {
	if n.layout == layoutChunk {
		core := uint64(inodeSize + n.xattrBytes)
		return alignUp(core, 8) - core + 8*uint64(len(n.Data.chunks))
	}
	return uint64(n.tail)
}

func alignUp(n, to uint64) uint64 { return (n + to - 1) &^ (to - 1) }

// placeInodes gives every inode its place in the metadata area and returns the
// area's length. An inline tail may not cross a block (the kernel refuses it);
// neither does an inode that fits in one. The first slots stay empty: inode
// number 0 would make readdir(3) of some C libraries hide the entry.
func (w *Writer) placeInodes() uint64 {
	at := uint64(2 * slotSize)
	for _, n := range w.inodes {
		core := uint64(inodeSize + n.xattrBytes)
		tail := uint64(n.tail)
		switch {
		case core+tail <= BlockSize:
			if at%BlockSize+core+tail > BlockSize {
				at = alignUp(at, BlockSize)
			}
		case tail > 0:
			// Long attributes: let the tail start near the start of a block.
			at = alignUp(alignUp(at+core, BlockSize)-core, slotSize)
		}
		n.offset = at
		at = alignUp(at+core+n.behind(), slotSize)
	}
	return at
}

// writeInodes writes the directories' blocks and the metadata area.
func (w *Writer) writeInodes(meta uint32) error {
	out := metaBuffer{w: w, base: meta}
	for _, n := range w.inodes {
		out.padTo(n.offset)
		out.buf = n.encode(out.buf)
		out.buf = appendXattrs(out.buf, n.Xattrs)
		switch {
		case n.layout == layoutChunk:
			out.padTo(alignUp(n.offset+uint64(inodeSize+n.xattrBytes), 8))
			for _, c := range n.Data.chunks {
				out.buf = le.AppendUint32(out.buf, 0) // this device, high bits 0
				out.buf = le.AppendUint32(out.buf, c)
			}
		case n.Mode&ModeMask == ModeRegular:
			out.buf = append(out.buf, n.Data.tail...)
		case n.Mode&ModeMask == ModeSymlink && n.tail > 0:
			out.buf = append(out.buf, n.Target...)
		case n.Mode&ModeMask == ModeDir:
			if err := w.writeDir(n, &out); err != nil {
				return err
			}
		}
		if err := out.flush(1 << 20); err != nil {
			return err
		}
	}
	return out.flush(0)
}

func (w *Writer) writeDir(n *Inode, out *metaBuffer) error {
	for i := range n.dirBlocks {
		if n.tail > 0 && i == len(n.dirBlocks)-1 {
			out.buf = n.direntBlock(out.buf, i)
			break
		}
		// Names in a block that is not full end at the first NUL.
		if err := w.writeAt(n.direntBlock(nil, i), n.block+uint32(i), 0); err != nil {
			return err
		}
	}
	return nil
}

// metaBuffer collects the metadata area and writes it in large pieces.
type metaBuffer struct {
	w    *Writer
	base uint32
	at   uint64 // offset in the area of the first byte of buf
	buf  []byte
}

func (m *metaBuffer) padTo(off uint64) {
	for m.at+uint64(len(m.buf)) < off {
		n := min(off-m.at-uint64(len(m.buf)), BlockSize)
		m.buf = append(m.buf, zeroBlock[:n]...)
	}
}

func (m *metaBuffer) flush(over int) error {
	if len(m.buf) <= over {
		return nil
	}
	if err := m.w.writeAt(m.buf, m.base, m.at); err != nil {
		return err
	}
	m.at += uint64(len(m.buf))
	m.buf = m.buf[:0]
	return nil
}
