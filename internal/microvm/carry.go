package microvm

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/plan"
)

// carry brings the root file system's image to a destination that lacks it, and puts the
// name that it has there into cfg, which describes the VM. The guest feels nothing.
func (v *VM) carry(ctx context.Context, dial migrate.Dial, p plan.Plan, cfg *workload.Config, o migrate.SendOptions) (sent uint64, err error) {
	if p.Action(plan.Layers, filepath.Base(cfg.Rootfs.ImagePath)) != plan.Copy {
		return 0, nil
	}
	f, err := os.Open(cfg.Rootfs.ImagePath)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, readerFor(ctx, f))
	if err != nil {
		return 0, err
	}
	name, sent, err := migrate.SendImage(ctx, dial, f, uint64(size), [sha256.Size]byte(h.Sum(nil)), o)
	if err != nil {
		return 0, fmt.Errorf("carry the image along: %w", err)
	}
	cfg.Rootfs.ImagePath = filepath.Join(filepath.Dir(cfg.Rootfs.ImagePath), name)
	v.log.Info("the image is at the destination", "name", name, "bytes", sent)
	return sent, nil
}

// readerFor is r until ctx ends.
func readerFor(ctx context.Context, r io.Reader) io.Reader { return reader{ctx, r} }

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// roomFor is what is left on a disk that an image is taken onto, in bytes.
const roomFor = 256 << 20

// mostImage is the largest image that is taken in at dir, in bytes.
func mostImage(dir string) (uint64, error) {
	free, err := freeDisk(dir)
	if err != nil || free <= roomFor {
		return 0, err
	}
	return min(free-roomFor, migrate.MaxImage), nil
}

// incoming lets images in, for VMs that come to own. Only the latest is held: the
// store's next prune takes the others.
func (v *VM) incoming(own *workload.Config) func(context.Context, migrate.ImageOffer) (migrate.ImageSink, string, error) {
	return func(ctx context.Context, o migrate.ImageOffer) (migrate.ImageSink, string, error) {
		dir := own.VM.Receive.Images
		most, err := mostImage(dir)
		if err != nil {
			return nil, "", err
		}
		store, err := images.Open(filepath.Dir(dir))
		if err != nil {
			return nil, "", err
		}
		in, name, held, err := store.Receive(ctx, int64(o.Size), o.SHA256)
		switch {
		case err != nil:
			return nil, "", err
		case in == nil:
			v.holdCarried(held)
			return nil, name, nil
		case o.Size > most:
			in.Discard()
			return nil, "", fmt.Errorf("an image of %d MiB, %d MiB are taken at most", o.Size>>20, most>>20)
		}
		return &imageSink{in, v, name}, "", nil
	}
}

// holdCarried keeps an image that has come until the VM that needs it holds it itself,
// or nothing has come of it.
func (v *VM) holdCarried(f *os.File) {
	if old := v.carried.Swap(f); old != nil {
		_ = old.Close()
	}
}

type imageSink struct {
	*images.Incoming
	v    *VM
	name string
}

// Keep implements migrate.ImageSink.
func (s *imageSink) Keep() (string, error) {
	held, err := s.Incoming.Keep()
	if err != nil {
		return "", err
	}
	s.v.holdCarried(held)
	return s.name, nil
}
