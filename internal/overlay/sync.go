package overlay

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Sync makes what was written before it durable. The bits of blocks that have come
// here go to the file between two syncs: after the data that they claim, and before
// it returns. Of bits that are torn some claim theirs. Once it has failed it always
// does: the kernel forgets what it could not write, and the bits would claim that.
func (o *Overlay) Sync() error {
	o.syncing.Lock()
	defer o.syncing.Unlock()
	if o.lost == nil {
		o.lost = o.sync()
	}
	return o.lost
}

func (o *Overlay) sync() error {
	pages := o.claims()
	err := fdatasync(o.f)
	for page, b := range pages {
		if err == nil {
			_, err = o.f.WriteAt(b, headerSize+page*pageSize)
		}
	}
	if err == nil && len(pages) > 0 {
		err = fdatasync(o.f)
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", o.f.Name(), err)
	}
	return nil
}

// claims copies the pages of the bitmap that have changed: bits that are set from now
// on claim data that the coming sync may not have.
func (o *Overlay) claims() map[int64][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	pages := map[int64][]byte{}
	for page := range o.dirty {
		pages[page] = slices.Clone(o.here[page*pageSize:][:pageSize])
	}
	clear(o.dirty)
	return pages
}

// fdatasync is the call, which tests replace.
var fdatasync = func(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
