package instance

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxEntry bounds a line; owners write pieces of 32 KiB.
const maxEntry = 1 << 20

// lineReader reads lines through rotated files in order (base.2, base.1,
// base). It tells files apart by inode: a name moves on while its file is
// being read.
type lineReader struct {
	base string
	fn   func(line []byte) error // line is valid until it returns
	f    *os.File
	rest []byte // an incomplete line
}

func (r *lineReader) close() {
	if r.f != nil {
		r.f.Close()
	}
}

func (r *lineReader) path(n int) string {
	if n == 0 {
		return r.base
	}
	return fmt.Sprintf("%s.%d", r.base, n)
}

func (r *lineReader) openOldest() error {
	n := 0
	for {
		if _, err := os.Stat(r.path(n + 1)); err != nil {
			break
		}
		n++
	}
	for ; n >= 0; n-- {
		f, err := os.Open(r.path(n))
		if err == nil {
			r.f = f
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// newer tells where the file after the current one is now. The answer is good
// for a moment only: names move on.
func (r *lineReader) newer() (n int, ok bool, err error) {
	cur, err := r.f.Stat()
	if err != nil {
		return 0, false, err
	}
	for n := 0; ; n++ {
		st, err := os.Stat(r.path(n))
		switch {
		case errors.Is(err, fs.ErrNotExist) && n == 0:
			return 0, false, nil // between two renames, or removed
		case errors.Is(err, fs.ErrNotExist):
			return n - 1, true, nil // rotated out of existence: the oldest there is
		case err != nil:
			return 0, false, err
		case os.SameFile(cur, st):
			return n - 1, n > 0, nil
		}
	}
}

// drain gives fn every whole line there is.
func (r *lineReader) drain() error {
	for {
		if r.f == nil {
			if err := r.openOldest(); err != nil || r.f == nil {
				return err
			}
		}
		// Asked before the file is read to its end: nothing more is written
		// to one that has a successor.
		_, more, err := r.newer()
		if err != nil {
			return err
		}
		if err := r.lines(); err != nil || !more {
			return err
		}
		n, _, err := r.newer()
		if err != nil {
			return err
		}
		f, err := os.Open(r.path(max(n, 0)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it moved on between the two calls
		}
		if err != nil {
			return err
		}
		r.f.Close()
		r.f, r.rest = f, nil
	}
}

func (r *lineReader) lines() error {
	br := bufio.NewReaderSize(r.f, 64<<10)
	for {
		line, err := br.ReadBytes('\n')
		r.rest = append(r.rest, line...)
		if len(r.rest) > maxEntry {
			return fmt.Errorf("%w: %s: a line is longer than %d bytes", ErrCorrupt, r.f.Name(), maxEntry)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.emit(); err != nil {
			return err
		}
	}
}

func (r *lineReader) emit() error {
	line := bytes.TrimSpace(r.rest)
	r.rest = r.rest[:0]
	if len(line) == 0 {
		return nil
	}
	if err := r.fn(line); err != nil {
		if errors.Is(err, ErrCorrupt) {
			err = fmt.Errorf("%s: %w", r.f.Name(), err)
		}
		return err
	}
	return nil
}
