package spare

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/migrate"
)

// Intake lets images into a store that instances bring along which come here. Only the latest
// is held: the store's next prune takes the others. Methods may be called concurrently.
type Intake struct {
	Images string // the folder of root file system images in the store

	held atomic.Pointer[os.File]
}

// Image is migrate.ReceiveOptions.Image.
func (i *Intake) Image(ctx context.Context, o migrate.ImageOffer) (migrate.ImageSink, string, error) {
	most, err := Image(i.Images)
	if err != nil {
		return nil, "", err
	}
	store, err := images.Open(filepath.Dir(i.Images))
	if err != nil {
		return nil, "", err
	}
	in, name, held, err := store.Receive(ctx, int64(o.Size), o.SHA256)
	switch {
	case err != nil:
		return nil, "", err
	case in == nil:
		i.hold(held)
		return nil, name, nil
	case o.Size > most:
		in.Discard()
		return nil, "", fmt.Errorf("an image of %d MiB, %d MiB are taken at most", o.Size>>20, most>>20)
	}
	return &sink{in, i, name}, "", nil
}

// hold keeps an image that has come until the instance that needs it holds it itself,
// or nothing has come of it.
func (i *Intake) hold(f *os.File) {
	if old := i.held.Swap(f); old != nil {
		_ = old.Close()
	}
}

// Release holds nothing any more.
func (i *Intake) Release() { i.hold(nil) }

type sink struct {
	*images.Incoming
	i    *Intake
	name string
}

// Keep implements migrate.ImageSink.
func (s *sink) Keep() (string, error) {
	held, err := s.Incoming.Keep()
	if err != nil {
		return "", err
	}
	s.i.hold(held)
	return s.name, nil
}
