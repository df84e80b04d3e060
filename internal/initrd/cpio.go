package initrd

import (
	"fmt"
	"io"
)

// File types and the largest size of a newc archive's members.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
	maxFile  = 1<<32 - 1
)

// cpioWriter writes a newc archive (Linux Documentation/driver-api/
// early-userspace/buffer-format.rst): per member a header of ASCII hex fields,
// the name and the data, each padded to four bytes. Inode numbers count up and
// times are zero, so that the bytes depend on the members alone.
type cpioWriter struct {
	w   io.Writer
	off int64
	ino uint32
	err error
}

// member adds one file; data may be nil when size is zero.
func (c *cpioWriter) member(name string, mode uint32, size int64, major, minor uint32, data io.Reader) {
	if c.err != nil {
		return
	}
	if size < 0 || size > maxFile {
		c.err = fmt.Errorf("%s has %d bytes, more than the archive format holds", name, size)
		return
	}
	nlink := uint32(1)
	if mode&0o170000 == modeDir {
		nlink = 2
	}
	c.ino++
	c.print("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.ino, mode, 0, 0, nlink, 0, uint32(size), 0, 0, major, minor, len(name)+1, 0, name)
	c.pad()
	if size > 0 && c.err == nil {
		n, err := io.CopyN(c, data, size)
		if c.err == nil && err != nil {
			c.err = fmt.Errorf("%s: %d of %d bytes: %w", name, n, size, err)
		}
	}
	c.pad()
}

// close ends the archive.
func (c *cpioWriter) close() error {
	c.ino = ^uint32(0) // the trailer's is 0
	c.member("TRAILER!!!", 0, 0, 0, 0, nil)
	return c.err
}

func (c *cpioWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.off += int64(n)
	return n, err
}

func (c *cpioWriter) print(format string, args ...any) {
	if c.err == nil {
		_, c.err = fmt.Fprintf(c, format, args...)
	}
}

func (c *cpioWriter) pad() {
	if rest := c.off % 4; rest != 0 && c.err == nil {
		_, c.err = c.Write(make([]byte, 4-rest))
	}
}
