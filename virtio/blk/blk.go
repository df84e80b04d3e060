package blk

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

// Kind is the block device. Args.Files["image"], when set, is Options.Image.
var Kind = virtio.Kind{
	Name: "blk",
	Help: "disk backed by a raw image file or block device",
	Options: []virtio.Option{
		{Key: "path", Help: "image file or block device"},
		{Key: "ro", Help: "on: the guest cannot write"},
		{Key: "serial", Help: "what the guest reads as the disk's serial number, at most 20 bytes; default its id"},
	},
	New: func(a virtio.Args) (virtio.Device, error) {
		ro, err := a.Bool("ro", false)
		if err != nil {
			return nil, err
		}
		serial := a.String("serial", a.ID[:min(len(a.ID), idSize)])
		return New(Options{Path: a.String("path", ""), ReadOnly: ro, Serial: serial, Image: a.Files["image"], Log: a.Logger()})
	},
}

// Feature bits (§5.2.3).
const (
	featureSegMax      virtio.Features = 1 << 2
	featureReadOnly    virtio.Features = 1 << 5
	featureBlockSize   virtio.Features = 1 << 6
	featureFlush       virtio.Features = 1 << 9
	featureDiscard     virtio.Features = 1 << 13
	featureWriteZeroes virtio.Features = 1 << 14
)

const (
	queueSize  = 128
	configSize = 60            // up to the end of the write-zeroes fields (§5.2.4)
	segMax     = queueSize - 2 // data buffers of one request
)

// Options says what disk to make.
type Options struct {
	Path     string // of a raw image file or a block device
	ReadOnly bool   // the guest cannot write
	Serial   string // at most 20 bytes
	// Image, when set, is Path, opened and locked by another process that lets this
	// one go on with it. New takes it over when it succeeds.
	Image *os.File
	Log   *slog.Logger
}

// Metrics are the counters of the device. Operations count when they have
// succeeded.
type Metrics struct {
	Reads         atomic.Uint64 `metric:"read_ops_total,1"`
	ReadBytes     atomic.Uint64 `metric:"read_bytes_total,bytes"`
	Writes        atomic.Uint64 `metric:"write_ops_total,1"`
	WriteBytes    atomic.Uint64 `metric:"write_bytes_total,bytes"`
	Flushes       atomic.Uint64 `metric:"flush_ops_total,1"`
	Syncs         atomic.Uint64 `metric:"syncs_total,1"` // fdatasync calls, also those that no flush asked for
	Discards      atomic.Uint64 `metric:"discard_ops_total,1"`
	WriteZeroes   atomic.Uint64 `metric:"write_zeroes_ops_total,1"`
	Unsupported   atomic.Uint64 `metric:"unsupported_ops_total,1"`
	GuestMistakes atomic.Uint64 `metric:"refused_ops_total,1"`
	Failures      atomic.Uint64 `metric:"failed_ops_total,1"`
}

// Device is one disk.
type Device struct {
	im      *image
	serial  [idSize]byte
	config  [configSize]byte
	log     *slog.Logger
	metrics Metrics
	// writeThrough is set while the driver did not accept FLUSH: a write is
	// durable when it completes (§5.2.6.2).
	writeThrough bool

	bufs [][]byte // reused by the one worker
	segs []segment
}

// New opens and locks the image. Errors wrap virtio.ErrArgs, ErrImage or
// ErrLocked, and name the file.
func New(o Options) (*Device, error) {
	if o.Path == "" {
		return nil, fmt.Errorf("%w: a disk needs a path", virtio.ErrArgs)
	}
	if len(o.Serial) > idSize {
		return nil, fmt.Errorf("%w: serial %q is longer than %d bytes", virtio.ErrArgs, o.Serial, idSize)
	}
	im, err := openImage(o)
	if err != nil {
		return nil, err
	}
	d := &Device{im: im, log: o.Log}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	copy(d.serial[:], o.Serial)
	d.fillConfig()
	return d, nil
}

// fillConfig makes the configuration space (§5.2.4), which is constant.
func (d *Device) fillConfig() {
	le := binary.LittleEndian
	le.PutUint64(d.config[0:], d.im.sectors)
	le.PutUint32(d.config[12:], segMax)
	le.PutUint32(d.config[20:], sectorSize)
	le.PutUint32(d.config[36:], maxDiscard)
	le.PutUint32(d.config[40:], maxDiscardSegments)
	le.PutUint32(d.config[44:], 1) // discard_sector_alignment
	le.PutUint32(d.config[48:], maxZero)
	le.PutUint32(d.config[52:], maxZeroSegments)
	d.config[56] = 1 // write_zeroes_may_unmap
}

// Info describes the one request queue.
func (d *Device) Info() virtio.Info {
	f := featureSegMax | featureBlockSize | featureFlush
	if d.im.readOnly {
		f |= featureReadOnly
	} else {
		f |= featureDiscard | featureWriteZeroes
	}
	return virtio.Info{ID: virtio.IDBlock, Features: f, QueueSizes: []uint16{queueSize}, ConfigLen: configSize}
}

// ReadConfig implements virtio.ConfigSpace.
func (d *Device) ReadConfig(p []byte, off uint32) { copy(p, d.config[off:]) }

// WriteConfig ignores the write: no field of ours is writable.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate notes how durable the driver expects writes to be.
func (d *Device) Activate(_ context.Context, env *virtio.Env) error {
	d.writeThrough = !env.Features.Has(featureFlush)
	return nil
}

// Reset has nothing to forget: the disk's contents are the state.
func (d *Device) Reset() {}

// Close releases the image and its lock.
func (d *Device) Close() error { return d.im.close() }

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }

type stateV1 struct {
	Sectors  uint64
	ReadOnly bool
}

// StateVersion returns 1.
func (d *Device) StateVersion() uint32 { return 1 }

// SaveState returns what the restored disk has to match.
func (d *Device) SaveState() (any, error) { return stateV1{d.im.sectors, d.im.readOnly}, nil }

// LoadState checks that the disk is the one the guest knew.
func (d *Device) LoadState(dec state.Decoder) error {
	var s stateV1
	if err := dec.Into(&s); err != nil {
		return err
	}
	if s.Sectors != d.im.sectors || s.ReadOnly != d.im.readOnly {
		return fmt.Errorf("%w: the guest knew a disk of %d sectors (read-only %v), this one has %d (%v)",
			virtio.ErrState, s.Sectors, s.ReadOnly, d.im.sectors, d.im.readOnly)
	}
	return nil
}
