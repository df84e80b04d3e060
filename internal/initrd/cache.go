package initrd

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// format is part of every key: it changes when the same options would give
// another archive.
const format = "hvctl-initrd-1"

// keepUnused is how long an archive that nobody asks for stays in the cache.
const keepUnused = 30 * 24 * time.Hour

// File returns the path of the initramfs for o below dir, built if it is not
// there yet. It is on the path of every boot, so what is there is found by the
// identity of the files that go in (device, inode, size, change time) and
// without reading them. An archive is written under another name and renamed:
// any number of processes may do this at once, and a half-written one is never
// seen. The caller must not change the file. Archives that were not asked for
// in 30 days are removed when another one is built.
func File(dir string, o Options) (string, error) {
	if err := o.validate(); err != nil {
		return "", err
	}
	key, err := o.key()
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, key+".cpio")
	now := time.Now()
	switch err := os.Chtimes(name, now, now); {
	case err == nil:
		return name, nil
	case !errors.Is(err, os.ErrNotExist):
		// A cache of somebody else's that may be read: still usable.
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	prune(dir, now)
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name()) // fails once renamed, as it should
	defer tmp.Close()
	w := bufio.NewWriterSize(tmp, 256<<10)
	if err := Build(w, o); err != nil {
		return "", fmt.Errorf("build the initramfs: %w", err)
	}
	if err := errors.Join(w.Flush(), tmp.Chmod(0o644), tmp.Sync()); err != nil {
		return "", fmt.Errorf("build the initramfs: %w", err)
	}
	return name, os.Rename(tmp.Name(), name)
}

// prune removes what has not been used for long, and what a killed builder left.
func prune(dir string, now time.Time) {
	for _, pattern := range []string{"*.cpio", ".new-*"} {
		names, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, n := range names {
			if fi, err := os.Stat(n); err == nil && now.Sub(fi.ModTime()) > keepUnused {
				_ = os.Remove(n)
			}
		}
	}
}

// key is the digest of the identity of everything that Build reads.
func (o Options) key() (string, error) {
	h := sha256.New()
	field(h, format)
	if err := identity(h, o.Hvinit); err != nil {
		return "", fmt.Errorf("the guest's init: %w", err)
	}
	for _, m := range o.Modules {
		field(h, "module")
		field(h, m.Name)
		field(h, filepath.Ext(m.Path))
		if err := identity(h, m.Path); err != nil {
			return "", fmt.Errorf("%w: %s: %w", ErrModule, m.Name, err)
		}
	}
	field(h, "extra")
	c := &cpioWriter{w: h} // in the archive's order, not the caller's
	writeExtra(c, o.Extra)
	return hex.EncodeToString(h.Sum(nil)), c.err
}

// field hashes a string so that no two lists of strings look alike.
func field(h hash.Hash, s string) { fmt.Fprintf(h, "%d:%s,", len(s), s) }

// identity hashes what changes whenever a file's content does.
func identity(h hash.Hash, name string) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	fmt.Fprintf(h, "%d:%d:%d:%d.%d,", st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec)
	return nil
}
