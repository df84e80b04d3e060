package fs

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
)

// ErrPromised is wrapped when the guest was told of a file system that can do other
// things than this build's.
var ErrPromised = errors.New("the guest has mounted a file system of other abilities than this build's")

type stateV1 struct{ Tag string }

// stateV2 also has what the guest has mounted and open. The files themselves are
// the host's, and not part of it.
type stateV2 struct {
	Tag    string
	Init   []byte `json:",omitempty"` // see Device
	Answer []byte `json:",omitempty"`
	Files  hostdir.Table
}

// StateVersion returns 2.
func (d *Device) StateVersion() uint32 { return 2 }

// CanSave returns why SaveState would fail now, as far as that is quickly known; it
// may be asked while the guest runs. The error wraps hostdir.ErrUnlinked or
// hostdir.ErrAttached.
func (d *Device) CanSave() error { return d.dir.CanSave() }

// Names is hostdir.FS.Names.
func (d *Device) Names(max int) []hostdir.Name { return d.dir.Names(max) }

// SaveState returns what the guest holds of the directory. Errors also wrap
// hostdir.ErrTooMany.
func (d *Device) SaveState() (any, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	files, err := d.dir.Save()
	return stateV2{d.tag, d.init, d.answer, files}, err
}

// LoadState checks that it is a share of that name, and opens again what the guest
// holds (hostdir.FS.Load).
func (d *Device) LoadState(dec state.Decoder) error {
	var s stateV2
	if dec.Version() == 1 { // nothing is mounted
		var v1 stateV1
		if err := dec.Into(&v1); err != nil {
			return err
		}
		return d.sameTag(v1.Tag)
	}
	if err := dec.Into(&s); err != nil {
		return err
	}
	if err := d.sameTag(s.Tag); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.Init != nil {
		if !goodInit(s.Init) {
			return fmt.Errorf("%w: a FUSE_INIT of %d bytes", state.ErrCorrupt, len(s.Init))
		}
		answer, code := d.answerInit(s.Init)
		if code != fuse.OK || !bytes.Equal(answer, s.Answer) {
			return fmt.Errorf("shared directory %s: %w", d.dir, ErrPromised)
		}
		d.init, d.answer = s.Init, answer
	}
	err := d.dir.Load(s.Files)
	if errors.Is(err, hostdir.ErrTable) {
		err = fmt.Errorf("%w: %w", state.ErrCorrupt, err)
	}
	return err
}

func (d *Device) sameTag(tag string) error {
	if tag != d.tag {
		return fmt.Errorf("%w: the shared directory is called %q, the guest knows %q", state.ErrCorrupt, d.tag, tag)
	}
	return nil
}
